"""The README's lines of Python run as they stand, on a small model and a few images."""

import re
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DModel

from latestart.data import save_png

README = Path(__file__).parent.parent / "README.md"


def test_the_ten_lines_run_as_they_stand(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    torch.nn.init.zeros_(model.conv_out.weight)  # predicts the grey image, which is the mean of these
    torch.nn.init.zeros_(model.conv_out.bias)
    model.save_pretrained("my-model")
    DDIMScheduler(prediction_type="sample").save_pretrained("my-model/scheduler")
    for k in range(300):
        save_png(f"photos/{k}.png", torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8))
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["result"].images.shape == (64, 3, 8, 8)
    assert names["result"].nfe == 5
    # the sampler ends on the network's last prediction, the grey image, in both ways
    torch.testing.assert_close(names["result"].images, torch.full((64, 3, 8, 8), 0.5), rtol=0, atol=1e-5)
    torch.testing.assert_close(names["x"], torch.zeros(64, 3, 8, 8), rtol=0, atol=1e-5)


def test_the_readme_names_the_commands_of_the_makefile():
    text, makefile = README.read_text(), (README.parent / "Makefile").read_text()
    for target in re.findall(r"`make (\w+)`|^make (\w+)", text, flags=re.MULTILINE):
        assert f"{''.join(target)}:" in makefile
