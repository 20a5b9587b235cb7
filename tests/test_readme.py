"""The README's lines of Python run as they stand, on a small model and a few images."""

import re
from dataclasses import replace
from pathlib import Path

import torch

from latestart.data import Images, save_png
from latestart.train import TrainConfig, train

README = Path(__file__).parent.parent / "README.md"


def test_the_ten_lines_run_as_they_stand(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    bars = torch.zeros(300, 3, 8, 8, dtype=torch.uint8)
    for k in range(300):  # a bright bar, somewhere in the upper or the lower half
        bars[k, :, k % 2 * 4 + k % 3] = 255
        save_png(f"photos/{k}.png", bars[k])
    config = TrainConfig(steps=150, batch_size=16, channels=(16, 16), learning_rate=3e-3, ema_decay=0.9)
    train(Images(bars), "my-model", replace(config, prediction="sample"))
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["result"].images.shape == (64, 3, 8, 8)
    assert names["result"].nfe == 5
    expected = bars.float().mean(0) / 255
    for images in (names["result"].images, (names["x"] / 2 + 0.5).clamp(0, 1)):
        # of a picture that is an eighth white; grey would be 0.37 away
        assert (images.mean(0) - expected).square().mean().sqrt() < 0.08
        assert images.std(0).mean() > 0.1


def test_the_readme_names_the_commands_of_the_makefile():
    text, makefile = README.read_text(), (README.parent / "Makefile").read_text()
    for target in re.findall(r"`make (\w+)`|^make (\w+)", text, flags=re.MULTILINE):
        assert f"{''.join(target)}:" in makefile
