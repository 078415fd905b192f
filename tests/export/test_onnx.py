"""ONNX: the network in onnxruntime computes what it computes in torch."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from nnunet_ext.errors import InputError
from nnunet_ext.export import formats
from nnunet_ext.export.formats import ONNX_PACKAGES, write_onnx
from nnunet_ext.export.planned import logits
from nnunet_ext.export.write import export_model
from tests import tiny

MISSING = [name for name in ONNX_PACKAGES if find_spec(name) is None]
needs_the_extra = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed (extra 'onnx')")


@needs_the_extra
@pytest.mark.parametrize(
    ("name", "configuration", "kind"),
    [
        ("nnUNetTrainerBaBLoss", "3d_fullres", "ignore"),
        ("nnUNetTrainerPnPNet", "2d", "classes"),
        ("nnUNetTrainerSDM", "3d_fullres", "classes"),
    ],
)
def test_onnxruntime_computes_the_logits_of_the_exported_network(trained, tmp_path, name, configuration, kind):
    import onnxruntime

    folder, trainers = trained(name, configuration, kind)
    exported = export_model(folder, tmp_path / "out", onnx=True)
    assert list(exported.onnx) == ["fold_0/checkpoint_final.onnx"]
    assert exported.onnx["fold_0/checkpoint_final.onnx"] < 1e-3
    assert "fold_0/checkpoint_final.onnx: ONNX, logits differ by at most" in exported.report()
    trainer = trainers[0]
    trainer.set_deep_supervision_enabled(False)
    image = torch.randn(1, 1, *trainer.configuration_manager.patch_size)
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "fold_0" / "checkpoint_final.onnx"))
    (found,) = session.run(["logits"], {"image": image.numpy()})
    np.testing.assert_allclose(found, logits(trainer.network, image).numpy(), atol=1e-3)
    assert json.loads((tmp_path / "out" / "export.json").read_text())["dataset"] == tiny.DATASET


@needs_the_extra
def test_logits_that_differ_are_refused(tmp_path, monkeypatch):
    network = tiny.network(2, deep_supervision=False).eval()
    monkeypatch.setattr(formats, "logits", lambda module, image: logits(module, image) + 0.1)
    with pytest.raises(InputError, match=r"logits that differ by 0\.1 from those of torch"):
        write_onnx(network, torch.randn(1, 1, 16, 16), tmp_path / "network.onnx")


@needs_the_extra
def test_a_network_that_cannot_be_traced_gets_one_sentence(tmp_path):
    class Undecided(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(InputError, match=r"Undecided cannot be written as ONNX .* without --onnx"):
        write_onnx(Undecided(), torch.randn(1, 1, 16, 16), tmp_path / "network.onnx")


def test_without_the_extra_one_sentence_names_it_and_nothing_is_written(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    folder, _ = trained("nnUNetTrainerMedContext")
    with pytest.raises(InputError, match=r"--onnx needs onnx and onnxruntime and onnxscript; install the extra: pip "):
        export_model(folder, tmp_path / "out", onnx=True)
    assert not (tmp_path / "out").exists()
