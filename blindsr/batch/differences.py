"""How the settings of two runs differ, for whoever typed them."""

from collections.abc import Mapping
from typing import Any

from blindsr.checks import as_typed

__all__ = ["differences"]

_TYPED_AS = {"path_noise": "path_predictor"}
"""Settings that follow from an option of another name."""


def differences(
    then: Mapping[str, Any], run_then: Mapping[str, Any], now: Mapping[str, Any], run_now: Mapping[str, Any]
) -> list[str]:
    """What differs between the settings of two runs, as it is typed: ``--seed 0, now --seed 1``; at most four.

    Args:
        then, now: settings of :class:`blindsr.batch.records.Record`.
        run_then, run_now: its run metadata, which know presets and names of files.
    """
    if then.get("estimator") != now.get("estimator"):
        return [f"{then.get('estimator')}'s, now {now.get('estimator')}'s"]
    found = {}
    presets = [run["given"].get("--preset") for run in (run_then, run_now) if isinstance(run.get("given"), dict)]
    if len(set(presets)) > 1:
        found["preset"] = ", now ".join(as_typed("preset", preset) for preset in presets)
    then, now = ({**settings, **settings.get("settings", {})} for settings in (then, now))
    for key in {**now, **then}:
        if key == "settings" or then.get(key) == now.get(key):
            continue
        if found and key.startswith("path_") and (key not in then or key not in now):
            continue  # weights that only one of them needs follow from what was found
        values = _shown(key, then.get(key), run_then), _shown(key, now.get(key), run_now)
        found[_TYPED_AS.get(key, key)] = ", now ".join(values)
    shown = list(found.values())
    return shown if len(shown) < 5 else [*shown[:3], f"and {len(shown) - 3} more"]


def _shown(key: str, value: Any, run: Mapping[str, Any]) -> str:
    """A setting as it is typed. Of a file it is the hash, which is shown beside the name that ``run`` has."""
    if key == "photographs":
        return "photographs" if value else "laboratory data"
    files = run.get("files")
    if isinstance(value, str) and isinstance(files, dict) and key in files:
        value = f"{files[key]} ({value[:8]})"
    return as_typed(_TYPED_AS.get(key, key), value)
