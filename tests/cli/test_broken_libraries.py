"""A torchvision of another build of torch, which raises when it is imported: all that needs none works as ever."""

import pytest

from tests.data import texts
from tests.models.tiny import write_model

NMS = "operator torchvision::nms does not exist"


@pytest.fixture
def broken_torchvision(tmp_path):
    """Words that put a torchvision that does not load before the real one."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "torchvision.py").write_text(f"raise RuntimeError({NMS!r})\n")
    return f"PYTHONPATH={tmp_path / 'lib'}:$PYTHONPATH"


@pytest.mark.slow
def test_training_and_spectra_need_no_torchvision(process, broken_torchvision):
    made = "sharpkit train --epochs 1 --limit 100 --threads 1 --out run -q"
    done = process(f"{broken_torchvision} {made} && {broken_torchvision} sharpkit hessian run --top 1 -q")
    assert done.code == 0, done.stderr
    assert NMS not in done.stderr


@pytest.mark.slow
def test_texts_do_without_torchvision_and_say_so_in_one_line(process, broken_torchvision, tmp_path):
    pytest.importorskip("transformers")
    model, data = write_model(tmp_path / "tiny"), texts.write_tsv(tmp_path / "mine.tsv")
    words = f"--model {model} --data {data} --base adamw --epochs 1 -b 8 --threads 1 --max-length 16 --out run"
    done = process(f"{broken_torchvision} sharpkit train {words}")
    assert done.code == 0, done.stderr
    assert done.stderr.count(NMS) == 1


@pytest.mark.slow
def test_a_model_of_torchvision_is_refused_with_the_remedy(process, broken_torchvision):
    done = process(f"{broken_torchvision} sharpkit train --model torchvision:resnet18")
    assert done.code == 3
    assert NMS in done.told
