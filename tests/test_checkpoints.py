import pytest
import torch

from blindsr.paths import pretrained_path
from FKP import KernelPrior
from KernelPredictor import KernelPredictor
from NonblindSR.usrnet import USRNet

READERS = {
    "usrnet_tiny.pth": USRNet.from_pretrained,
    "kernel_predictor.pth": KernelPredictor.from_pretrained,
    "FKP_x2.pt": lambda path: KernelPrior.from_pretrained(2, path),
}


def weights(name):
    content = torch.load(pretrained_path(name), weights_only=True)
    return content.get("model_state", content)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapper", [None, "params", "params_ema", "state_dict", "model_state"])
@pytest.mark.parametrize("name", READERS)
def test_weights_are_read_under_the_names_that_others_save_them(tmp_path, name, wrapper, prefix):
    state = weights(name)
    content = {f"{prefix}{key}": value for key, value in state.items()}
    path = tmp_path / name
    torch.save(content if wrapper is None else {wrapper: content, "epoch": 3}, path)
    read = READERS[name](path).state_dict()
    assert all(torch.equal(read[key], value) for key, value in state.items())


@pytest.mark.parametrize("name", READERS)
def test_two_readings_are_none(tmp_path, name):
    state = weights(name)
    torch.save({"params": state, "params_ema": state}, tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}: holds several weights \(params, params_ema\)"):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("name", READERS)
def test_other_content_is_told_in_one_line(tmp_path, name):
    for content in ({}, {"params": {}}, {"params": 3}, {1: torch.ones(2)}, {"module.": 1, "other": 2}):
        torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match=f"{name}: not the weights of") as caught:
            READERS[name](tmp_path / name)
        assert "\n" not in str(caught.value)
