"""The policy for pictures in files: what is turned, laid onto a colour, or refused by its name."""

import io
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageOps

from latestart.data import load_images, read_png
from latestart.datasets import pictures
from latestart.datasets.pictures import FORMATS, decode

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def gradient(mode="RGB", size=(12, 8)):
    """A picture that no turn maps to itself."""
    ramp = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[1], size[0]) * 2
    return Image.fromarray(np.stack([ramp, ramp[::-1], 255 - ramp], -1)).convert(mode)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_picture_is_turned_as_its_tag_says(kind, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    options = {"PNG": {}, "JPEG": {"quality": 100}, "WEBP": {"lossless": True}, "TIFF": {}}[kind]
    data = encoded(gradient(), kind, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        upright = np.array(ImageOps.exif_transpose(image))
    found = decode(data, "x").permute(1, 2, 0).numpy()
    assert found.shape == ((12, 8, 3) if turn > 4 else (8, 12, 3))
    assert np.array_equal(found, upright)
    if kind != "JPEG":
        methods = [None, *(getattr(Image.Transpose, name) for name in (
            "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"
        ))]  # fmt: skip
        expected = gradient() if turn == 1 else gradient().transpose(methods[turn - 1])
        assert np.array_equal(found, np.array(expected))


def test_what_is_cut_out_is_cut_out_of_the_upright_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.new("L", (30, 10))
    wide.paste(200, (10, 0, 20, 10))
    assert (decode(encoded(wide, exif=exif), "x", size=10) == 200).all()


def with_colour_key(mode):
    image = gradient() if mode == "RGB" else gradient().getchannel("R")  # of even values
    image.paste(RED if mode == "RGB" else 77, (3, 2, 9, 6))
    return encoded(image, transparency=RED if mode == "RGB" else 77)


def with_palette():
    image = Image.new("P", (12, 8), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (3, 2, 9, 6))
    return encoded(image, transparency=0)


def with_palette_alphas():
    image = Image.new("P", (12, 8), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (3, 2, 9, 6))
    return encoded(image, transparency=bytes([0, 255]))


def with_alpha(mode, kind="PNG", **options):
    image = gradient("RGB" if mode == "RGBA" else "L").convert(mode)
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (3, 2, 9, 6))
    image.putalpha(alpha)
    return encoded(image, kind, **options)


def gif_with_hole():
    image = Image.new("P", (12, 8), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (3, 2, 9, 6))
    return encoded(image, "GIF", transparency=0)


TRANSPARENT = {
    "colour key": lambda: with_colour_key("RGB"),
    "grey key": lambda: with_colour_key("L"),
    "palette entry": with_palette,
    "palette alphas": with_palette_alphas,
    "RGBA": lambda: with_alpha("RGBA"),
    "LA": lambda: with_alpha("LA"),
    "WebP": lambda: with_alpha("RGBA", "WEBP", lossless=True),
    "TIFF": lambda: with_alpha("RGBA", "TIFF"),
    "GIF": gif_with_hole,
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparency_is_refused_or_laid_onto_a_colour(kind):
    data = TRANSPARENT[kind]()
    with pytest.raises(ValueError, match=r"photo\.x is transparent \(mode .*background='white'"):
        decode(data, "photo.x")
    onto = decode(data, "photo.x", background="white")
    grey = kind in ("grey key", "LA")
    assert onto.shape == (1 if grey else 3, 8, 12)
    assert (onto[:, 2:6, 3:9] == 255).all()
    opaque = np.array(Image.open(io.BytesIO(data)).convert("L" if grey else "RGB"))
    outside = torch.ones(8, 12, dtype=torch.bool)
    outside[2:6, 3:9] = False
    kept = torch.from_numpy(opaque[None] if grey else np.moveaxis(opaque, -1, 0).copy())
    assert torch.equal(onto[:, outside], kept[:, outside])
    for background in ((0, 128, 255), "#0080ff"):
        assert decode(data, "x", background=background)[:, 3, 5].tolist() == [0, 128, 255]


def test_half_transparent_is_laid_over_by_its_share():
    image = Image.new("RGBA", (4, 4), (200, 0, 100, 128))
    found = decode(encoded(image), "x", background=(0, 255, 0))[:, 0, 0].float()
    expected = torch.tensor([200.0, 0, 100]) * 128 / 255 + torch.tensor([0.0, 255, 0]) * 127 / 255
    assert (found - expected).abs().max() <= 1


def test_a_gif_whose_first_frame_leaves_some_of_the_canvas_free():
    frame = Image.new("P", (4, 4), 1)
    frame.putpalette([255, 0, 0, 0, 0, 255])
    data = bytearray(encoded(frame, "GIF"))
    data[6:10] = struct.pack("<HH", 8, 6)  # a canvas larger than the frame
    with pytest.raises(ValueError, match=r"x\.gif is transparent"):
        decode(bytes(data), "x.gif")
    found = decode(bytes(data), "x.gif", background=(1, 2, 3))
    assert found.shape == (3, 6, 8)
    assert found[:, 0, 0].tolist() == [0, 0, 255] and found[:, 5, 7].tolist() == [1, 2, 3]


def test_of_an_animation_the_first_frame_is_read():
    first, second = Image.new("RGB", (6, 6), (9, 9, 9)), Image.new("RGB", (6, 6), WHITE)
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(first, kind, save_all=True, append_images=[second], **options)
        assert (decode(data, "x") == 9).all(), kind


@pytest.mark.parametrize("background", ["whiteish", "#ff880080", (1, 2), (1, 2, 300), 3])
def test_a_background_is_an_opaque_colour(tmp_path, background):
    (tmp_path / "a.png").write_bytes(with_palette())
    with pytest.raises(ValueError, match="expected an opaque colour, such as 'white'"):
        load_images(tmp_path, background=background)


def raw_png(bits, colour, channels):
    """8 x 8 pixels of 0x01ff, or of 1."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = np.full(8 * channels, 0x01FF if bits == 16 else 1, ">u2" if bits == 16 else "u1").tobytes()
    head = struct.pack(">IIBBBBB", 8, 8, bits, colour, 0, 0, 0)
    body = zlib.compress((b"\0" + row) * 8)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def tiff(array, photometric, **tags):
    """An uncompressed TIFF of one strip, little-endian."""
    channels = 1 if array.ndim == 2 else array.shape[2]
    data, bits = array.tobytes(), array.dtype.itemsize * 8
    offset_bits = 8 + len(data)
    entries = [
        (256, 3, 1, array.shape[1]), (257, 3, 1, array.shape[0]),
        (258, 3, channels, bits if channels < 3 else offset_bits),
        (259, 3, 1, 1), (262, 3, 1, photometric), (273, 4, 1, 8), (277, 3, 1, channels), (278, 3, 1, array.shape[0]),
        (279, 4, 1, len(data)), *((int(name[1:]), 3, 1, value) for name, value in tags.items()),
    ]  # fmt: skip
    extra = struct.pack(f"<{channels}H", *[bits] * channels)
    at = offset_bits + len(extra)
    ifd = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", at) + data + extra + ifd


@pytest.mark.parametrize(
    "data",
    [
        *(raw_png(16, colour, channels) for colour, channels in ((0, 1), (2, 3), (4, 2), (6, 4))),
        tiff(np.full((8, 8), 0x01FF, "<u2"), 1),
        tiff(np.full((8, 8, 3), 0x01FF, "<u2"), 2),
        tiff(np.full((8, 8), 1, "<u4"), 1),
        tiff(np.full((8, 8), 0.5, "<f4"), 1, t339=3),
    ],
    ids=["PNG grey", "PNG RGB", "PNG LA", "PNG RGBA", "TIFF grey", "TIFF RGB", "TIFF 32", "TIFF float"],
)
def test_more_than_eight_bits_a_channel_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match=r"x\.png .*(with (16|32) bits a channel|floating-point)"):
        decode(data, "x.png", background="white")
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.png"):
        load_images(f"{tmp_path}@8")


def test_eight_bits_and_less_are_read():
    assert (decode(raw_png(8, 2, 3), "x") == 1).all()
    assert (decode(tiff(np.full((8, 8, 3), 7, "u1"), 2), "x") == 7).all()
    assert decode(encoded(Image.new("1", (8, 8), 1)), "x").unique().tolist() == [255]
    with pytest.raises(ValueError, match="signed or floating-point numbers"):
        decode(tiff(np.full((8, 8), -1, "i1"), 1, t339=2), "x")


def test_only_the_formats_of_the_list_are_opened(monkeypatch):
    other = {"PPM", "TGA", "ICO", "PCX", "SGI", "DDS", "EPS", "JPEG2000"} - set(FORMATS)
    refused = 0
    for kind in sorted(other):
        try:
            data = encoded(gradient(), kind)
        except (KeyError, OSError):
            continue
        refused += 1
        with pytest.raises(ValueError, match=r"cannot read x\.png as an image \(PNG, JPEG, WEBP, BMP, TIFF, GIF\)"):
            decode(data, "x.png")
    assert refused >= 5
    for kind in FORMATS:
        assert decode(encoded(gradient(), kind), "x").shape == (3, 8, 12)


@pytest.mark.parametrize(
    "data", [b"", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"GIF89a", b"BM" + bytes(60)]
)
def test_what_is_no_picture_is_named(data):
    with pytest.raises(ValueError, match=r"5\.png"):
        decode(data, "5.png")


def test_a_picture_cut_off_is_named():
    with pytest.raises(ValueError, match=r"cannot read 5\.png"):
        data = encoded(gradient(size=(64, 64)))
        decode(data[: len(data) // 2], "5.png")


def test_too_many_pixels_are_named_with_the_remedy(tmp_path, monkeypatch):
    Image.new("1", (14000, 14000)).save(tmp_path / "scan.png")
    for place in (tmp_path, f"{tmp_path}@8"):
        with pytest.raises(ValueError, match=r"scan\.png is too large to open: .*photos@64"):
            load_images(place)
    monkeypatch.setattr(pictures, "MOST_PIXELS", 95)
    with pytest.raises(ValueError, match=r"x is too large to open: it has 12 x 8 pixels, where at most 95"):
        decode(encoded(gradient()), "x")


def test_every_reader_keeps_the_policy(tmp_path):
    """Folders, tables, CelebA and single files are decoded in one place."""
    data = with_alpha("RGBA")
    table = pa.table({"image": [{"bytes": data, "path": None}] * 2})
    pq.write_table(table, tmp_path / "x.parquet")
    faces = tmp_path / "celeba" / "img_align_celeba"
    faces.mkdir(parents=True)
    face = Image.new("RGBA", (178, 218), (9, 9, 9, 0))
    (faces / "a.jpg").write_bytes(encoded(face))
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("a.jpg 0\n")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(data)
    for place, name in (("x.parquet", r"x\.parquet, row 0"), ("celeba@8", r"a\.jpg"), ("photos", r"a\.png")):
        with pytest.raises(ValueError, match=f"{name} is transparent"):
            load_images(tmp_path / place)
        assert (load_images(tmp_path / place, background="white").pixels == 255).any()
        assert (load_images(f"{tmp_path / place}@background=white").pixels == 255).any()
    with pytest.raises(ValueError, match="says its background"):
        load_images(f"{tmp_path}/photos@background=white", background="red")
    with pytest.raises(ValueError, match=r"a\.png is transparent"):
        read_png(tmp_path / "photos" / "a.png")
