"""Pixels as the files say: depth, orientation, transparency, and channels that a whole data set agrees on."""

import io

import numpy as np
import pyarrow as pa
import pytest
from data_jobs import job_of, plan_of
from PIL import Image

from orchestrator import data
from orchestrator.data.serving import Inputs
from orchestrator.data.sources.index import SourceIndex
from orchestrator.errors import DataError

GRAY_16 = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257


def encoded(image, form="PNG", **more):
    out = io.BytesIO()
    image.save(out, form, **more)
    return out.getvalue()


def folder_of(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return {"kind": "images", "path": str(root)}


def prepared_of(train, tmp_path, **more):
    job = job_of({"train": train, "shuffle": False, **more}, family="cnn", batch=4)
    return data.prepare(plan_of(job, tmp_path)), plan_of(job, tmp_path)


def pictures(train, tmp_path, **more):
    """Of the first epoch in the files' order."""
    prepared, plan = prepared_of(train, tmp_path, **more)
    stream = data.open_train(prepared, plan, rank=0, world_size=1, start_step=0)
    try:
        return next(stream).micros[0]["image"]
    finally:
        stream.close()


def one_folder(tmp_path, content, ending="png"):
    return folder_of(tmp_path / "set", {f"{name}/0.{ending}": content for name in "abcd"})


def test_sixteen_bits_of_gray_keep_all_their_levels(tmp_path):
    images = pictures(one_folder(tmp_path, encoded(Image.fromarray(GRAY_16))), tmp_path)
    assert images.shape == (4, 1, 16, 16)
    np.testing.assert_allclose(images[0, 0], GRAY_16 / 65535, rtol=1e-6)
    assert len(np.unique(images)) == 256
    close = (GRAY_16 // 257 + 30_000).astype(np.uint16)  # levels that eight bits can't tell apart
    assert len(np.unique(pictures(one_folder(tmp_path, encoded(Image.fromarray(close))), tmp_path))) == 256


def test_good_images_are_read_without_asking_where_they_lie(tmp_path, monkeypatch):
    """To say it reads the whole list of files, which is as long as the data set."""
    train = one_folder(tmp_path, encoded(Image.fromarray(GRAY_16)))
    monkeypatch.setattr(SourceIndex, "where", lambda *_: pytest.fail("asked where a good image lies"))
    assert pictures(train, tmp_path).shape == (4, 1, 16, 16)


@pytest.mark.parametrize(
    ("values", "white"),
    [(np.arange(256, dtype=np.int32) * 1000, 255_000), (np.arange(256, dtype=np.float32) / 512, 1.0)],
)
def test_32_bits_go_by_what_the_images_hold(tmp_path, values, white):
    content = encoded(Image.fromarray(values.reshape(16, 16)), "TIFF")
    images = pictures(one_folder(tmp_path, content, "tif"), tmp_path)
    np.testing.assert_allclose(images[0, 0].ravel(), values / white, rtol=1e-6)


def test_the_job_says_what_is_black_and_white(tmp_path):
    content = encoded(Image.fromarray(np.full((8, 8), 30.0, np.float32)), "TIFF")
    source = one_folder(tmp_path, content, "tif")
    assert pictures(source, tmp_path, images={"range": [10, 20]})[0, 0, 0, 0] == pytest.approx(2.0)
    assert "30 white" in prepared_of(source, tmp_path)[0].notes[0]


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
def test_images_stand_upright(tmp_path, turn, form):
    from PIL import ImageOps

    lying = Image.fromarray(np.arange(24 * 16, dtype=np.uint8).reshape(24, 16))
    exif = Image.Exif()
    exif[0x0112] = turn
    content = encoded(lying, form, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    images = pictures(one_folder(tmp_path, content, form.lower()), tmp_path)
    np.testing.assert_allclose(images[0, 0], expected / 255, rtol=1e-6)
    larger = {"transforms": [{"kind": "resize", "height": 48, "width": 32}]}
    assert pictures(one_folder(tmp_path, content, form.lower()), tmp_path, **larger).shape == (4, 1, 48, 32)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_transparent_pixels_show_the_background(tmp_path, mode):
    if mode == "P":
        image = Image.new("P", (8, 8), 0)
        image.putpalette([9, 9, 9, 200, 0, 0])
        content = encoded(image, transparency=0)
    else:
        content = encoded(Image.new(mode, (8, 8), 0))
    train = one_folder(tmp_path, content)
    assert (pictures(train, tmp_path) == 1).all(), "white unless said otherwise"
    red = pictures(train, tmp_path, images={"background": [255, 0, 0], "channels": 3})
    assert red[0, :, 0, 0].tolist() == [1, 0, 0]


def test_channels_are_the_data_sets_and_not_the_first_images(tmp_path):
    files = {f"a/{i}.png": encoded(Image.new("L", (16, 16), 100)) for i in range(2)}
    files |= {f"b/{i}.png": encoded(Image.new("RGB", (16, 16), (255, 0, 0))) for i in range(2)}
    train = folder_of(tmp_path / "set", files)
    images = pictures(train, tmp_path)
    np.testing.assert_allclose(images[0, :, 0, 0], 100 / 255, rtol=1e-6)
    assert images[2, :, 0, 0].tolist() == [1, 0, 0]
    assert pictures(train, tmp_path, images={"channels": 1}).shape == (4, 1, 16, 16)


def test_training_on_gray_and_evaluating_colors_is_refused_and_a_mix_is_in_color(tmp_path):
    gray = folder_of(tmp_path / "gray", {f"{c}/0.png": encoded(Image.new("L", (8, 8), 9)) for c in "ab"})
    red = folder_of(tmp_path / "red", {f"{c}/0.png": encoded(Image.new("RGB", (8, 8), 9)) for c in "ab"})
    with pytest.raises(DataError, match="in color, but all looked at"):
        prepared_of(gray, tmp_path, eval=red)
    prepared, _ = prepared_of(red, tmp_path, eval=gray)
    assert prepared.evaluation.layouts[0].shape[0] == 3
    mixed, _ = prepared_of([gray, red], tmp_path)
    assert {layout.shape for s in mixed.train for layout in s.layouts if layout.name == "image"} == {
        (3, 8, 8)
    }


def test_a_color_image_that_was_not_looked_at_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.data.columns.looks._LOOK_ROWS", 1)
    files = {f"a/{i}.png": encoded(Image.new("L" if i < 3 else "RGB", (8, 8), 9)) for i in range(4)}
    with pytest.raises(DataError, match=r"3\.png: the image is in color.*channels: 3"):
        pictures(folder_of(tmp_path / "set", files), tmp_path)


@pytest.mark.parametrize("how", ["bytes", "struct"])
def test_columns_of_images_and_a_logged_models_rows_are_read_alike(tmp_path, how):
    import pyarrow.parquet as pq

    contents = [encoded(Image.fromarray(GRAY_16)), encoded(Image.new("RGBA", (16, 16), (9, 9, 9, 0)))] * 2
    images = contents if how == "bytes" else [{"bytes": one, "path": "x.png"} for one in contents]
    rows = pa.table({"image": images, "label": [0, 1, 0, 1]})
    pq.write_table(rows, tmp_path / "rows.parquet")
    train = {"kind": "parquet", "path": str(tmp_path / "rows.parquet")}
    prepared, _ = prepared_of(train, tmp_path)
    trained = pictures(train, tmp_path)
    np.testing.assert_allclose(trained[0, 2], GRAY_16 / 65535, rtol=1e-6)
    assert (trained[1] == 1).all()
    inputs = Inputs(layouts=tuple(one for one in prepared.train[0].layouts if one.name == "image"))
    np.testing.assert_array_equal(inputs.tensors(rows)["image"], trained)
