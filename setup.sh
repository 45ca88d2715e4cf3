# Source this from the repository's root: it installs the project into the virtual environment that is active,
# or into .venv (made if need be, and activated) where none is, or only conda's base. VENV=... chooses another place.
[ -f requirements.txt ] || {
    echo "error: source setup.sh from the repository's root" >&2
    return 2
}
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "error: needs Python 3.10 or newer; python3 is $(python3 --version 2>&1)" >&2
    return 2
}
if [ -z "${VIRTUAL_ENV:-}" ] && { [ -z "${CONDA_PREFIX:-}" ] || [ "${CONDA_DEFAULT_ENV:-}" = base ]; }; then
    VENV="${VENV:-.venv}"
    if [ ! -f "$VENV/bin/activate" ]; then
        python3 -m venv "$VENV" || {
            echo "error: python3 cannot make a virtual environment; on Debian: apt install python3-venv" >&2
            rm -rf "$VENV"
            return 2
        }
    fi
    . "$VENV/bin/activate"
fi
python -m pip install --quiet --disable-pip-version-check -r requirements.txt
