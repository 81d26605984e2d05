"""Sounds as their files hold them, wherever they lie; and those that can't be read, each in one sentence."""

import io
import json
import struct
import sys
import tarfile
from math import gcd

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_jobs import job_of, plan_of
from scipy.signal import resample_poly

from orchestrator import data
from orchestrator.data.columns.resampling import resampled
from orchestrator.data.columns.wav import plain_wav
from orchestrator.data.serving import inputs_of
from orchestrator.data.sources.index import SourceIndex
from orchestrator.errors import DataError, SpecError

soundfile = pytest.importorskip("soundfile")

RANDOM = np.random.default_rng(0)
FORMS = {
    "wav": {"format": "WAV", "subtype": "PCM_16"},
    "flac": {"format": "FLAC", "subtype": "PCM_16"},
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
}
PAD = {"kind": "pad", "tensor": "signal", "length": 3000}


def waves(count=4, samples=2000, channels=1):
    return (RANDOM.random((count, samples, channels)) - 0.5).astype(np.float32)


def encoded(wave, ending="wav", rate=8000, **more):
    out = io.BytesIO()
    soundfile.write(out, wave, rate, **{**FORMS[ending], **more})
    return out.getvalue()


def decoded(content):
    return soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0].T


def folder_of(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return {"kind": "audio", "path": str(root)}


def one_folder(tmp_path, contents, ending="wav"):
    return folder_of(tmp_path / "set", {f"{'ab'[i % 2]}/{i}.{ending}": one for i, one in enumerate(contents)})


def prepared_of(train, tmp_path, columns=None, **more):
    spec = {"train": train, "shuffle": False, "columns": columns or {"signal": "audio"}, **more}
    objective = {"kind": "classification"}
    model = {"family": "gru", "inputs": "signal"}
    job = job_of(spec, family="gru", batch=4, model=model, objective=objective)
    plan = plan_of(job, tmp_path)
    return data.prepare(plan), plan


def first_step(train, tmp_path, **more):
    """The first global batch, in the files' order."""
    prepared, plan = prepared_of(train, tmp_path, **more)
    stream = data.open_train(prepared, plan, rank=0, world_size=1, start_step=0)
    try:
        return next(stream).micros[0]
    finally:
        stream.close()


@pytest.mark.parametrize("ending", FORMS)
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_are_those_that_soundfile_reads(tmp_path, ending, channels):
    contents = [encoded(wave, ending) for wave in waves(channels=channels)]
    batch = first_step(one_folder(tmp_path, contents, ending), tmp_path)
    in_order = [contents[i] for i in (0, 2, 1, 3)]  # folder a, then folder b
    np.testing.assert_array_equal(batch["signal"], np.stack([decoded(one) for one in in_order]))
    assert batch["label"].tolist() == [0, 0, 1, 1]
    assert "length" not in batch


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_any_depth_is_read(tmp_path, subtype):
    contents = [encoded(wave, subtype=subtype) for wave in waves()]
    batch = first_step(one_folder(tmp_path, contents), tmp_path)
    np.testing.assert_array_equal(batch["signal"][0], decoded(contents[0]))


RATES = [
    (22050, 16000),
    (8000, 16000),
    (44100, 48000),
    (48000, 16000),
    (8000, 96000),
    (16000, 11025),
    (22254, 8000),
]


@pytest.mark.parametrize(("rate", "new_rate"), RATES)
@pytest.mark.parametrize("samples", [1, 99, 3001])
def test_resampling_is_that_of_scipy(rate, new_rate, samples):
    wave, shared = waves(1, samples, 2)[0].T, gcd(rate, new_rate)
    theirs = resample_poly(wave, new_rate // shared, rate // shared, axis=1)
    np.testing.assert_allclose(resampled(wave, rate, new_rate), theirs, rtol=0, atol=1e-6)


def test_resampling_leaves_blas_no_work_for_threads_of_its_own(monkeypatch):
    sizes, multiply = [], np.matmul

    def matmul(one, other, out):
        sizes.append(one.shape[-2] * one.shape[-1] * other.shape[-1])
        return multiply(one, other, out=out)

    monkeypatch.setattr(np, "matmul", matmul)
    wave = waves(1, 200_000)[0].T
    np.testing.assert_allclose(
        resampled(wave, 22050, 16000), resample_poly(wave, 320, 441, axis=1), atol=1e-6
    )
    assert 2**17 < max(sizes) <= 2**18


def test_sounds_of_several_rates_and_lengths_are_brought_to_one(tmp_path):
    contents = [
        encoded(wave, rate=rate) for wave, rate in zip(waves(), (8000, 16000, 22050, 8000), strict=True)
    ]
    transforms = [{"kind": "resample", "tensor": "signal", "rate": 8000}, PAD]
    batch = first_step(one_folder(tmp_path, contents), tmp_path, transforms=transforms)
    assert batch["length"].tolist() == [2000, 726, 1000, 2000]
    assert batch["signal"].shape == (4, 1, 3000)
    ours = batch["signal"][1, 0]
    np.testing.assert_array_equal(ours[:726], resampled(decoded(contents[2]), 22050, 8000)[0])
    assert not ours[726:].any()


def piece(name, content, size=None):
    size = len(content) if size is None else size
    return name + size.to_bytes(4, "little") + content + bytes(len(content) % 2)


HEAD = piece(b"fmt ", struct.pack("<HHIIHH", 1, 2, 8000, 32000, 4, 16))
SAMPLES = RANDOM.integers(-(2**15), 2**15, (50, 2)).astype("<i2").tobytes()
WAVS = {
    "plain": (HEAD, piece(b"data", SAMPLES)),
    "with more in its head": (
        piece(b"LIST", b"odd"),
        piece(HEAD[:4], HEAD[8:] + bytes(2)),
        piece(b"data", SAMPLES),
    ),
    "with more behind": (HEAD, piece(b"data", SAMPLES), piece(b"LIST", b"INFO")),
    "half a sample more": (HEAD, piece(b"data", SAMPLES + b"ab")),
    "from a pipe": (HEAD, piece(b"data", SAMPLES, 2**32 - 1)),
    "without rows": (HEAD, piece(b"data", b"")),
    "in bytes": (piece(b"fmt ", struct.pack("<HHIIHH", 1, 2, 8000, 16000, 2, 8)), piece(b"data", SAMPLES)),
}


@pytest.mark.parametrize("kind", WAVS)
def test_wavs_are_as_libsndfile_reads_them(kind):
    content = b"".join(WAVS[kind])
    content = b"RIFF" + (4 + len(content)).to_bytes(4, "little") + b"WAVE" + content
    plain = plain_wav(content)
    assert (plain is None) == (kind in ("from a pipe", "without rows", "in bytes"))
    if plain is not None:
        with soundfile.SoundFile(io.BytesIO(content)) as theirs:
            assert plain[:2] == (theirs.samplerate, theirs.channels)
            np.testing.assert_array_equal(plain.samples_NC, theirs.read(dtype="int16", always_2d=True))
    for cut in range(0, len(content), 7):
        assert plain_wav(content[:cut]) is None or cut >= len(content) - 12


def test_resampling_keeps_what_the_new_rate_can_hold_and_nothing_else():
    time = np.arange(16_000) / 16_000
    low, high = np.sin(2 * np.pi * 440 * time), np.sin(2 * np.pi * 6000 * time)
    made = resampled((low + high)[None].astype(np.float32), 16_000, 8000)[0]
    inside = slice(200, -200)
    np.testing.assert_allclose(made[inside], low[::2][inside], atol=2e-3)


def test_several_channels_become_their_mean_where_the_job_says_so(tmp_path):
    contents = [encoded(wave) for wave in (*waves(2), *waves(2, channels=2))]
    batch = first_step(one_folder(tmp_path, contents), tmp_path, audio={"channels": 1})
    np.testing.assert_allclose(batch["signal"][1, 0], decoded(contents[2]).mean(axis=0), atol=1e-7)


def manifest_of(tmp_path, rows, ending="csv"):
    table = pa.table({name: [row[name] for row in rows] for name in rows[0]})
    path = tmp_path / "set" / f"sounds.{ending}"
    if ending == "parquet":
        pq.write_table(table, path)
    elif ending == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        lines = [",".join(table.column_names), *(",".join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    return {"kind": "audio", "path": str(path)}


@pytest.mark.parametrize("named", ["path", "file_name", "audio_filepath"])
@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_a_manifest_says_what_each_sound_is(tmp_path, ending, named):
    contents = [encoded(wave) for wave in waves()]
    one_folder(tmp_path, contents)
    rows = [{named: f"./{'ab'[i % 2]}/{i}.wav", "label": i % 3, "said": "xyz"[i % 3]} for i in (3, 1, 0, 2)]
    batch = first_step(manifest_of(tmp_path, rows, ending), tmp_path)
    assert batch["label"].tolist() == [0, 1, 0, 2]
    names = prepared_of(manifest_of(tmp_path, rows, ending), tmp_path)[0].train[0].index.schema.names
    assert names == ["audio", "label", "said"]
    np.testing.assert_array_equal(batch["signal"][0], decoded(contents[3]))


def test_a_manifest_is_part_of_what_the_data_is(tmp_path):
    one_folder(tmp_path, [encoded(wave) for wave in waves()])
    rows = [{"path": f"{'ab'[i % 2]}/{i}.wav", "label": i % 2} for i in range(4)]
    before = prepared_of(manifest_of(tmp_path, rows), tmp_path)[0].identity["fingerprint"]
    same = prepared_of(manifest_of(tmp_path, rows, "parquet"), tmp_path)[0].identity["fingerprint"]
    other = [{**row, "label": 1 - row["label"]} for row in rows]
    assert same == before
    assert prepared_of(manifest_of(tmp_path, other), tmp_path)[0].identity["fingerprint"] != before


@pytest.mark.parametrize("kind", ["webdataset", "parquet", "struct"])
def test_sounds_in_tars_and_tables_are_the_same(tmp_path, kind):
    contents = [encoded(wave, "flac") for wave in waves()]
    folder = first_step(one_folder(tmp_path, [contents[i] for i in (0, 2, 1, 3)], "flac"), tmp_path)
    if kind == "webdataset":
        with tarfile.open(tmp_path / "set.tar", "w") as tar:
            for i, content in enumerate(contents):
                for ending, held in {"flac": content, "cls": str(i % 2).encode()}.items():
                    info = tarfile.TarInfo(f"{i}.{ending}")
                    info.size = len(held)
                    tar.addfile(info, io.BytesIO(held))
        source = {"kind": kind, "path": str(tmp_path / "set.tar")}
        columns = {"signal": "flac", "label": "cls"}
    else:
        column = contents if kind == "parquet" else [{"bytes": one, "path": "x"} for one in contents]
        pq.write_table(pa.table({"sound": column, "label": [0, 1, 0, 1]}), tmp_path / "set.parquet")
        source = {"kind": "parquet", "path": str(tmp_path / "set.parquet")}
        columns = {"signal": "sound"}
    batch = first_step(source, tmp_path, columns=columns)
    np.testing.assert_array_equal(np.sort(batch["signal"], axis=0), np.sort(folder["signal"], axis=0))


def spoiled(kind):
    good = encoded(waves(1)[0])
    return {
        "empty": (b"", r"b/1\.wav: the file is empty"),
        "silent": (encoded(waves(1)[0][:0]), r"b/1\.wav: holds no sound"),
        "cut wav": (good[:-1001], r"b/1\.wav: the file is cut off"),
        "cut flac": (encoded(waves(1)[0], "flac")[:-700], r"b/1\.wav: the (file is cut off|sound can't be)"),
        "cut ogg": (encoded(waves(1)[0], "ogg")[:-300], r"b/1\.wav: the file is cut off"),
        "no sound": (b"RIFF" + bytes(200), r"b/1\.wav: the sound can't be decoded \(.+\)"),
        "text": (b"hello " * 99, r"b/1\.wav: the sound can't be decoded \(.+\)"),
        "rate": (encoded(waves(1)[0], rate=11025), r"b/1\.wav: the sound has 11,025 samples a second, others have 8,000"),
        "stereo": (encoded(waves(1, channels=2)[0]), r"b/1\.wav: the sound has 2 channels, others have 1; .*channels: 1"),
        "longer": (encoded(waves(1, 2100)[0]), r"b/1\.wav: the sound has 2,100 samples, others have 2,000; add a pad"),
        "nan": (encoded(np.full(2000, np.nan), subtype="FLOAT"), r"b/1\.wav: .* not a finite number"),
    }[kind]  # fmt: skip


KINDS = ["empty", "silent", "cut wav", "cut flac", "cut ogg", "no sound", "text", "rate", "stereo", "longer", "nan"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_can_t_be_read_is_one_sentence_with_the_file_or_left_out(tmp_path, kind):
    content, message = spoiled(kind)
    contents = [encoded(wave) for wave in waves()]
    train = one_folder(tmp_path, [contents[0], content, *contents[2:]])
    with pytest.raises(DataError, match=message) as raised:
        first_step(train, tmp_path)
    assert "\n" not in str(raised.value)
    batch = first_step(train, tmp_path, skip_bad_samples=1)
    assert batch["weight"].tolist() == [1, 1, 0, 1]
    assert not batch["signal"][2].any()
    np.testing.assert_array_equal(batch["signal"][3], decoded(contents[3]))


def test_a_sound_longer_than_pad_is_refused_or_cut(tmp_path):
    contents = [encoded(wave) for wave in (*waves(3), *waves(1, 3001))]
    train = one_folder(tmp_path, contents)
    with pytest.raises(DataError, match=r"3\.wav: the sound has 3,001 samples, more than the 3,000 of pad"):
        first_step(train, tmp_path, transforms=[PAD])
    cut = first_step(train, tmp_path, transforms=[{**PAD, "longer": "cut"}])
    np.testing.assert_array_equal(cut["signal"][3], decoded(contents[3])[:, :3000])
    assert cut["length"].tolist() == [2000, 2000, 2000, 3000]
    empty = one_folder(tmp_path, [*contents[:3], b""])
    skipped = first_step(empty, tmp_path, transforms=[PAD], skip_bad_samples=1)
    assert skipped["length"].tolist() == [2000, 2000, 2000, 1], "no sequence is shorter than one step"


def test_good_sounds_are_read_without_asking_where_they_lie(tmp_path, monkeypatch):
    """To say it reads the whole list of files: done for each sound, it took several times what decoding takes."""
    train = one_folder(tmp_path, [encoded(wave) for wave in waves()])
    monkeypatch.setattr(SourceIndex, "where", lambda *_: pytest.fail("asked where a good sound lies"))
    assert first_step(train, tmp_path, transforms=[PAD])["signal"].shape == (4, 1, 3000)


def test_a_manifest_that_names_no_file_is_refused_with_its_row(tmp_path):
    one_folder(tmp_path, [encoded(wave) for wave in waves()])
    rows = [{"path": "a/0.wav", "label": 0}, {"path": "a/9.wav", "label": 1}]
    with pytest.raises(DataError, match=r"sounds\.csv, row 1: there is no sound 'a/9\.wav'"):
        prepared_of(manifest_of(tmp_path, rows), tmp_path)
    with pytest.raises(DataError, match=r"has no column 'path'.*; it has file"):
        prepared_of(manifest_of(tmp_path, [{"file": "a/0.wav"}]), tmp_path)
    with pytest.raises(DataError, match="has a column 'bytes'"):
        prepared_of(manifest_of(tmp_path, [{"path": "a/0.wav", "bytes": 3}]), tmp_path)


def test_a_bad_sound_of_a_manifest_is_named_with_its_row(tmp_path):
    contents = [encoded(wave) for wave in waves()]
    one_folder(tmp_path, [*contents[:3], contents[3][:-9]])
    rows = [{"path": f"{'ab'[i % 2]}/{i}.wav", "label": i % 2} for i in range(4)]
    with pytest.raises(DataError, match=r"b/3\.wav \(.*sounds\.csv, row 3\): the file is cut off"):
        first_step(manifest_of(tmp_path, rows), tmp_path)


def test_mel_of_another_rate_is_refused_before_training(tmp_path):
    train = one_folder(tmp_path, [encoded(wave) for wave in waves()])
    with pytest.raises(SpecError, match=r"mel of 'signal' is for 16,000 samples a second, .* have 8,000"):
        prepared_of(train, tmp_path, transforms=[{"kind": "mel", "tensor": "signal"}])


def test_evaluation_at_another_rate_is_refused(tmp_path):
    train = one_folder(tmp_path, [encoded(wave) for wave in waves()])
    held_out = folder_of(
        tmp_path / "other", {f"{name}/0.wav": encoded(waves(1)[0], rate=16000) for name in "ab"}
    )
    with pytest.raises(DataError, match=r"sounds have 8,000 samples a second .* but 16,000"):
        prepared_of(train, tmp_path, eval=held_out)


def test_only_sounds_are_resampled(tmp_path):
    pq.write_table(pa.table({"signal": [[[0.0, 1.0]]] * 4, "label": [0, 1, 0, 1]}), tmp_path / "x.parquet")
    with pytest.raises(SpecError, match="resample names 'signal', which holds no encoded sounds"):
        prepared_of(
            {"kind": "parquet", "path": str(tmp_path / "x.parquet")},
            tmp_path,
            columns={"signal": "signal"},
            transforms=[{"kind": "resample", "tensor": "signal", "rate": 8000}],
        )


def test_without_the_library_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    train = one_folder(tmp_path, [encoded(wave) for wave in waves()])
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(SpecError, match=r"install trainwright\[audio\]"):
        prepared_of(train, tmp_path)


MELS = [
    {"kind": "resample", "tensor": "signal", "rate": 8000},
    PAD,
    {"kind": "crop", "tensor": "signal", "length": 1500},
    {"kind": "mel", "tensor": "signal", "rate": 8000, "mels": 12, "window": 200, "hop": 80},
    {"kind": "normalize", "tensor": "signal"},
    {"kind": "spec_augment", "tensor": "signal"},
]


def test_sizes_are_known_and_a_logged_model_hears_what_evaluation_does(tmp_path):
    contents = [
        encoded(wave, rate=rate) for wave, rate in zip(waves(), (8000, 16000, 8000, 8000), strict=True)
    ]
    train = one_folder(tmp_path, contents)
    prepared, plan = prepared_of(train, tmp_path, transforms=MELS, eval=train)
    assert {"channels": 12, "signal_length": 19, "outputs": 2}.items() <= prepared.dims.items()
    evaluated = next(data.open_eval(prepared, plan, rank=0, world_size=1).batches())
    inputs = inputs_of(plan.job, prepared)
    paths = [f"{tmp_path}/set/{name}.wav" for name in ("a/0", "a/2", "b/1", "b/3")]
    for given in (pa.array(paths), pa.array([contents[i] for i in (0, 2, 1, 3)], pa.binary())):
        heard = inputs.tensors(pa.table({"audio": given}))
        assert heard.keys() == {"signal", "length"}
        np.testing.assert_array_equal(heard["signal"], evaluated["signal"])
        np.testing.assert_array_equal(heard["length"], evaluated["length"])
    assert json.loads(inputs.model_dump_json())["layouts"][0]["sound"]["rate"] == 8000
    with pytest.raises(DataError, match=r"row 0: the file is empty"):
        inputs.tensors(pa.table({"audio": [b""]}))
