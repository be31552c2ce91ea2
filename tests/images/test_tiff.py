"""Pictures of 16 bits per channel: quantised, written as TIFF, read by others and from an output; and masks, fitted like their pictures."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tifffile
from outputs import make_output
from PIL import Image

from nstray import config
from nstray.commands import cost, export, verify
from nstray.errors import ConfigError, ErrorCode, PairError
from nstray.images.decode import decode, decode_mask, read_header
from nstray.images.encode import encode, extension, quantize
from nstray.images.resize import fit, fit_mask, target_shape
from nstray.output.records import PICTURE_NAME
from nstray.reports import contact_sheet, drawing

RNG = np.random.default_rng(11)
DEEP = RNG.integers(0, 65536, (24, 40, 3), dtype=np.uint16)
ANY_LIMIT: dict[str, Any] = {"what": "mask m.png", "max_bytes": 10**7, "max_pixels": 10**6}


def save(picture: Image.Image, image_format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, image_format, **options)
    return out.getvalue()


def opened(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.mode) == ("TIFF", "RGB")
        return np.asarray(picture)


# Quantising -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("image_format", "kind", "top"), [("png", np.uint8, 255), ("jpeg", np.uint8, 255), ("tiff", np.uint16, 65535)])
def test_quantize_rounds_to_the_nearest_level(image_format: str, kind: type, top: int) -> None:
    image = RNG.random((50, 60, 3), dtype=np.float32)
    out = quantize(image, image_format)
    assert (out.dtype, out.shape) == (kind, image.shape)
    assert np.abs(out - image.astype(np.float64) * top).max() < 0.505  # float32 at 65535 is within 1/256 of a level
    levels = np.arange(top + 1, dtype=np.float32) / np.float32(top)
    ramp = quantize(np.broadcast_to(levels[:, None, None], (top + 1, 1, 3)), image_format)
    assert np.array_equal(ramp[:, 0, 0], np.arange(top + 1))


def test_quantize_at_8_bits_is_what_rounds_x_255() -> None:
    image = RNG.random((3, 70, 50), dtype=np.float32)
    out = quantize(image.transpose(1, 2, 0), "webp")  # as a worker has it: channels first
    assert np.array_equal(out, (image * 255).round().astype(np.uint8).transpose(1, 2, 0))
    assert out.flags.c_contiguous


def test_quantize_cuts_what_lies_beyond() -> None:
    image = np.array([[[-0.25, 1.25, 1.0], [0.0, 1 + 1e-6, -1e-6]]], np.float32)
    for image_format, top in (("png", 255), ("tiff", 65535)):
        assert quantize(image, image_format).tolist() == [[[0, top, top], [0, top, 0]]]


def test_misuse_of_quantize() -> None:
    with pytest.raises(ValueError, match="floats"):
        quantize(np.zeros((2, 2, 3), np.uint8), "tiff")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="png, jpeg, webp or tiff"):
        quantize(np.zeros((2, 2, 3), np.float32), "tif")


# 16-bit TIFF ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(24, 40), (1, 1), (1, 7), (7, 1), (3, 3), (3, 5), (4, 4), (700, 300)])
def test_tiff_is_read_back_exactly(shape: tuple[int, int]) -> None:
    pixels = RNG.integers(0, 65536, (*shape, 3), dtype=np.uint16)
    data = encode(pixels, "tiff")
    back = tifffile.imread(io.BytesIO(data))
    assert back.dtype == np.uint16
    assert np.array_equal(back, pixels)
    seen = opened(data)
    assert seen.shape == pixels.shape
    assert np.abs(seen.astype(int) - (pixels >> 8)).max() <= 1


def test_a_view_is_written_as_it_reads() -> None:
    assert np.array_equal(tifffile.imread(io.BytesIO(encode(DEEP[::-1, ::2], "tiff"))), DEEP[::-1, ::2])
    assert encode(DEEP[::-1, ::2], "tiff") == encode(DEEP[::-1, ::2].copy(), "tiff")


def test_a_tiff_says_nothing_but_its_pixels() -> None:
    """No name and version of a program, no time, no description: the same pixels would give other bytes tomorrow."""
    data = encode(DEEP, "tiff")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        (page,) = file.pages
        tags = {tag.name: tag.value for tag in page.tags.values()}
        assert file.byteorder == "<"
    assert set(tags) == {
        *("ImageWidth", "ImageLength", "BitsPerSample", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
        *("Compression", "Predictor", "StripOffsets", "StripByteCounts", "RowsPerStrip", "XResolution", "YResolution", "ResolutionUnit"),
    }
    assert (tags["BitsPerSample"], tags["Compression"], tags["PhotometricInterpretation"]) == ((16, 16, 16), 8, 2)
    assert encode(DEEP.copy(), "tiff") == data
    assert b"tifffile" not in data


def test_a_smooth_tiff_is_deflated_and_a_noisy_one_as_large_as_planned() -> None:
    y, x = np.mgrid[0:256, 0:256] / 256
    smooth = np.stack([y, x, (x + y) / 2], axis=2)
    assert len(encode(quantize(smooth, "tiff"), "tiff")) < smooth.size / 3
    grain = smooth + RNG.normal(0, 0.04, smooth.shape)
    each = len(encode(quantize(grain, "tiff"), "tiff")) / 256**2
    assert each == pytest.approx(cost.BYTES_PER_PIXEL["tiff"], rel=0.05)


def test_each_format_takes_its_own_depth() -> None:
    shallow = (DEEP >> 8).astype(np.uint8)
    with pytest.raises(ValueError, match=r"uint16 for tiff; got \(24, 40, 3\) uint8"):
        encode(shallow, "tiff")
    for image_format in ("png", "jpeg", "webp"):
        with pytest.raises(ValueError, match=f"uint8 for {image_format}; got .* uint16"):
            encode(DEEP, image_format)
    for pixels in (DEEP[:, :, 0], DEEP[:, :, :2], DEEP[:0], DEEP.astype(np.int32), DEEP.astype(np.float32)):
        with pytest.raises(ValueError, match="uint16"):
            encode(pixels, "tiff")


def test_quality_has_no_meaning_for_tiff() -> None:
    with pytest.raises(ValueError, match="no meaning for tiff"):
        encode(DEEP, "tiff", 90)
    for image_format in ("png", "tiff"):
        with pytest.raises(ConfigError, match=f"quality has no meaning for {image_format}; use image_format jpeg or webp"):
            config.make({"image_format": image_format, "quality": 90})
    assert config.make({"image_format": "tiff"}).quality is None


def test_every_format_of_a_job_is_known_everywhere() -> None:
    formats = get_args(config.ImageFormat)
    assert set(cost.BYTES_PER_PIXEL) == set(formats)
    for image_format in formats:
        assert PICTURE_NAME.fullmatch(f"c0-s1.{extension(image_format)}")
        pixels = quantize(np.full((4, 5, 3), 0.25), image_format)
        assert read_header(encode(pixels, image_format), own=True) == (image_format, 5, 4)


# An output's own TIFF -------------------------------------------------------------------------------------------------


def test_tiff_is_no_input() -> None:
    for data in (encode(DEEP, "tiff"), save(Image.fromarray((DEEP >> 8).astype(np.uint8)), "TIFF")):
        for call in (
            lambda data: decode(data, **ANY_LIMIT),
            lambda data: decode_mask(data, **ANY_LIMIT),
            read_header,
        ):
            with pytest.raises(PairError, match="a picture of format TIFF; convert it to JPEG, PNG or WebP") as caught:
                call(data)
            assert caught.value.code is ErrorCode.UNSUPPORTED_FORMAT


def test_own_tiff_is_decoded_to_its_high_bytes() -> None:
    out = decode(encode(DEEP, "tiff"), own=True, **ANY_LIMIT)
    assert out.dtype == np.uint8
    assert np.abs(out.astype(int) - (DEEP >> 8)).max() <= 1
    out[0] = 0  # the caller's own


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_own_adds_tiff_and_takes_nothing_else_away() -> None:
    pixels = (DEEP >> 8).astype(np.uint8)
    assert np.array_equal(decode(encode(pixels, "png"), own=True, **ANY_LIMIT), pixels)
    data = encode(DEEP, "tiff")
    for broken, code in (
        (save(Image.fromarray(pixels), "GIF"), ErrorCode.UNSUPPORTED_FORMAT),
        (data[: len(data) // 2], ErrorCode.DECODE_FAILED),
        (data[:8], ErrorCode.DECODE_FAILED),
        (b"", ErrorCode.EMPTY_FILE),
    ):
        with pytest.raises(PairError) as caught:
            decode(broken, own=True, **ANY_LIMIT)
        assert caught.value.code is code
    with pytest.raises(PairError, match="40x24 = 960 pixels") as caught:
        decode(data, own=True, **{**ANY_LIMIT, "max_pixels": 959})
    assert caught.value.code is ErrorCode.TOO_MANY_PIXELS


@pytest.mark.dev
def test_an_output_of_tiffs_is_verified_shown_exported_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored: dict[str, np.ndarray] = {}

    def change(_name: str, rows: list[dict[str, Any]], _foot: dict[str, Any]) -> None:
        for row in rows:
            pixels = stored[row["pair_id"]] = RNG.integers(0, 65536, (16, 24, 3), dtype=np.uint16)
            row.update(image={"bytes": encode(pixels, "tiff"), "path": f"{row['pair_id']}.tiff"})

    seen: list[drawing.Cell] = []
    draw = drawing.draw

    def spy(sheet: drawing.Sheet, *rest: Any) -> bytes:
        seen.extend(cell for line in sheet.cells for cell in line if cell is not None and not cell.original)
        return draw(sheet, *rest)

    monkeypatch.setattr(drawing, "draw", spy)
    made = make_output(tmp_path, contents=2, styles=2, change=change)
    assert verify.verify(made.out).problems == []
    assert contact_sheet.contact_sheet(made.out, str(tmp_path / "sheet.png")) == 4
    assert len(seen) == 4
    for cell, pair_id in zip(seen, sorted(stored), strict=True):
        assert cell.pixels is not None
        assert np.abs(cell.pixels.astype(int) - (stored[pair_id] >> 8)).max() <= 1
    assert export.export(made.out, str(tmp_path / "files"))["images"] == 4
    for line in (tmp_path / "files" / "metadata.jsonl").read_text().splitlines():
        name = json.loads(line)["file_name"]
        assert np.array_equal(tifffile.imread(tmp_path / "files" / name), stored[name.removesuffix(".tiff")])
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(made.out, split="train", cache_dir=str(tmp_path / "cache"))
    for row in loaded:
        assert row["image"].mode == "RGB"
        assert np.abs(np.asarray(row["image"]).astype(int) - (stored[row["pair_id"]] >> 8)).max() <= 1


def test_a_damaged_tiff_of_an_output_is_found(tmp_path: Path) -> None:
    def change(_name: str, rows: list[dict[str, Any]], _foot: dict[str, Any]) -> None:
        for row in rows:
            data = encode(RNG.integers(0, 65536, (16, 24, 3), dtype=np.uint16), "tiff")
            row.update(image={"bytes": data[: len(data) // 2], "path": f"{row['pair_id']}.tiff"})

    problems = verify.verify(make_output(tmp_path, contents=1, styles=1, change=change).out).problems
    assert any("c0-s0: decode_failed" in problem for problem in problems), problems


# Masks ----------------------------------------------------------------------------------------------------------------


def scene(height: int, width: int) -> np.ndarray:
    """The middle of each pixel of one smooth scene over the unit square: pictures of it at any size show the same thing at the same place."""
    v, u = (np.arange(height)[:, None] + 0.5) / height, (np.arange(width)[None] + 0.5) / width
    return np.floor(127.5 + 100 * np.sin(2 * np.pi * (1.3 * u + 0.1)) * np.cos(2 * np.pi * (0.9 * v + 0.2)) + 0.5).astype(np.uint8)


def as_picture(grey: np.ndarray) -> np.ndarray:
    return np.stack([255 - grey, grey, grey // 2], axis=2)


def displacement(mask: np.ndarray, picture: np.ndarray) -> tuple[float, float]:
    """By how many pixels to the right and down `mask` lies off `picture`: least squares on the differences, where both are smooth."""
    down, across = np.gradient(picture.astype(float))
    inner = np.s_[3:-3, 3:-3]
    slopes = np.stack([-across[inner].ravel(), -down[inner].ravel(), np.ones(across[inner].size)], axis=1)
    found = np.linalg.lstsq(slopes, (mask.astype(float) - picture)[inner].ravel(), rcond=None)[0]
    return float(found[0]), float(found[1])


RULES = [
    (48, "longest", False),
    (201, "longest", True),
    (50, "shortest", False),
    (63, "area", False),
    (512, "longest", False),  # keeps its own size
    (40, "exact", False),
    ("63x41", "exact", False),
    ("33x72", "exact", False),
    ("300x170", "exact", True),
    ("120x301", "exact", True),
]


@pytest.mark.parametrize(("size", "rule", "upsample"), RULES)
@pytest.mark.parametrize(("height", "width"), [(101, 147), (160, 120), (99, 99), (74, 203)])
@pytest.mark.parametrize("share", [1, 0.5, 2.5])
def test_a_mask_stays_over_its_picture(size: int | str, rule: str, upsample: bool, height: int, width: int, share: float) -> None:
    fitted = fit(as_picture(scene(height, width)), size, rule, upsample, what="x")
    shape = fitted.shape[0], fitted.shape[1]
    mask = scene(*target_shape(height, width, round(max(height, width) * share), "longest", True))
    out = fit_mask(mask, (height, width), shape, rule, what="mask")
    assert (out.dtype, out.shape) == (np.uint8, shape)
    apart = np.abs(out.astype(int) - fitted[:, :, 1])
    assert apart.mean() < 1
    assert apart[2:-2, 2:-2].max() <= 4
    assert max(map(abs, displacement(out, fitted[:, :, 1]))) < 0.1


def test_a_displacement_would_be_seen() -> None:
    here = scene(80, 120)
    assert displacement(here[1:], here[:-1]) == pytest.approx((0, -1), abs=0.1)
    assert displacement(here[:, :-1], here[:, 1:]) == pytest.approx((1, 0), abs=0.1)


@pytest.mark.parametrize("size", ["147x60", "100x101", "99x101", "1x101", "147x101"])
def test_where_exact_only_crops_the_mask_is_cropped_to_the_pixel(size: str) -> None:
    noise = RNG.integers(0, 256, (101, 147), dtype=np.uint8)
    fitted = fit(as_picture(noise), size, "exact", False, what="x")
    out = fit_mask(noise, (101, 147), (fitted.shape[0], fitted.shape[1]), "exact", what="mask")
    assert np.array_equal(out, fitted[:, :, 1])


def test_a_mask_of_the_pictures_size_is_left_alone() -> None:
    noise = RNG.integers(0, 256, (31, 47), dtype=np.uint8)
    assert np.array_equal(fit_mask(noise, (31, 47), (31, 47), "longest", what="mask"), noise)


@pytest.mark.parametrize(("size", "rule", "upsample"), RULES)
def test_a_fitted_mask_does_not_ring(size: int | str, rule: str, upsample: bool) -> None:
    steps = np.where(RNG.random((101, 147)) < 0.5, 60, 200).astype(np.uint8)
    wide, high = target_shape(147, 101, size, rule, upsample)
    out = fit_mask(steps, (101, 147), (high, wide), rule, what="mask")
    assert out.min() >= 60
    assert out.max() <= 200
    assert (fit_mask(np.full((101, 147), 255, np.uint8), (101, 147), (high, wide), rule, what="mask") == 255).all()


def test_a_shrunken_mask_is_averaged_not_sampled() -> None:
    stripes = np.zeros((128, 128), np.uint8)
    stripes[:, ::2] = 255
    out = fit_mask(stripes, (128, 128), (16, 16), "longest", what="mask")
    assert np.abs(out[1:-1, 1:-1].astype(int) - 127).max() <= 1  # the outermost feel the edge


@pytest.mark.parametrize(
    ("source", "mask", "sound"),
    [
        ((100, 200), (50, 100), True),
        ((100, 200), (101, 200), True),  # 1 pixel
        ((100, 200), (102, 200), False),
        ((99, 200), (98, 200), True),
        ((20, 30), (21, 30), True),  # 1 pixel is more than 1 %
        ((20, 30), (22, 30), False),
        ((20, 30), (43, 60), False),  # 21.5 at the picture's width
        ((20, 30), (42, 60), True),
        ((1000, 500), (1010, 500), True),  # 1 %
        ((1000, 500), (1011, 500), False),
        ((1000, 500), (495, 250), True),
        ((333, 1000), (33, 100), True),
        ((200, 100), (100, 200), False),
        ((100, 100), (1, 1), True),
        ((101, 147), (50, 74), True),  # both of its sides rounded
        ((1000, 104), (100, 10), True),
        ((104, 1000), (10, 100), True),
        ((1540, 500), (128, 42), True),
        ((1540, 500), (128, 44), False),
    ],
)
def test_a_mask_of_another_aspect_is_refused(source: tuple[int, int], mask: tuple[int, int], sound: bool) -> None:
    white = np.full(mask, 255, np.uint8)
    for rule, shape in (("longest", source), ("exact", (10, 12))):
        if sound:
            assert (fit_mask(white, source, shape, rule, what="x") == 255).all()
            continue
        with pytest.raises(PairError) as caught:
            fit_mask(white, source, shape, rule, what="content mask s3://b/m.png")
        assert caught.value.code is ErrorCode.BAD_MASK
        assert caught.value.message == (
            f"content mask s3://b/m.png: the mask is {mask[1]}x{mask[0]} pixels, its picture {source[1]}x{source[0]}: give a mask of the same aspect"
        )


def test_a_mask_without_white_is_refused() -> None:
    def refused(mask: np.ndarray, shape: tuple[int, int], rule: str, *words: str) -> None:
        with pytest.raises(PairError) as caught:
            fit_mask(mask, (60, 120), shape, rule, what="mask m.png")
        assert caught.value.code is ErrorCode.BAD_MASK
        for word in ("mask m.png: the mask is black all over", "marks no region", *words):
            assert word in caught.value.message

    black = np.zeros((60, 120), np.uint8)
    refused(black, (30, 60), "longest")
    refused(black, (30, 30), "exact")
    edge = black.copy()
    edge[:, :20] = 255  # marks only what exact crops away
    refused(edge, (30, 30), "exact", "that size_rule exact keeps")
    assert fit_mask(edge, (60, 120), (30, 60), "longest", what="x").max() == 255
    speck = black.copy()
    speck[3, 3] = 255  # less than half a level at this size
    refused(speck, (1, 2), "longest", "2x1 pixels")
    assert fit_mask(speck, (60, 120), (60, 120), "longest", what="x").max() == 255


def test_a_mask_is_the_luminance_of_its_picture() -> None:
    pixels = RNG.integers(0, 256, (9, 13, 3), dtype=np.uint8)
    out = decode_mask(save(Image.fromarray(pixels), "PNG"), **ANY_LIMIT)
    assert (out.dtype, out.shape) == (np.uint8, (9, 13))
    assert np.abs(out - pixels @ np.array([0.299, 0.587, 0.114])).max() <= 0.51
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(decode_mask(save(Image.fromarray(grey), "PNG"), **ANY_LIMIT), grey)
    assert decode_mask(save(Image.fromarray(grey > 99), "PNG"), **ANY_LIMIT).tolist() == ((grey > 99) * 255).tolist()
    assert decode_mask(save(Image.fromarray(grey), "JPEG"), **ANY_LIMIT).flags.writeable


def test_a_mask_is_turned_upright() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(decode_mask(save(Image.fromarray(grey), "PNG", exif=exif), **ANY_LIMIT), np.rot90(grey, -1))


def test_a_mask_has_the_limits_and_errors_of_a_picture() -> None:
    data = save(Image.new("L", (50, 40), 255), "PNG")
    for given, limits, code in (
        (data, {"max_pixels": 1999}, ErrorCode.TOO_MANY_PIXELS),
        (data, {"max_bytes": len(data) - 1}, ErrorCode.TOO_MANY_BYTES),
        (data[: len(data) // 2], {}, ErrorCode.DECODE_FAILED),
        (b"<html>", {}, ErrorCode.NOT_AN_IMAGE),
        (b"", {}, ErrorCode.EMPTY_FILE),
    ):
        with pytest.raises(PairError, match=r"mask m\.png: ") as caught:
            decode_mask(given, **{**ANY_LIMIT, **limits})
        assert caught.value.code is code


def test_what_is_transparent_in_a_mask_marks_nothing() -> None:
    layer = np.zeros((6, 8, 4), np.uint8)
    layer[:3] = 255  # white strokes on a transparent layer
    data = io.BytesIO()
    Image.fromarray(layer, "RGBA").save(data, "png")
    mask = decode_mask(data.getvalue(), what="x", max_bytes=10**6, max_pixels=10**6)
    assert (mask[:3] == 255).all()
    assert (mask[3:] == 0).all()
