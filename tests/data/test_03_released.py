"""What the authors of FARMS released: how it is read, and what is measured on it."""

import io
import json

import numpy as np
import pytest

from helpers import data

HERE = data.folder("03")
released = data.module("03", "released")
FULL = "llama-7b-hf/alpha_peak.npy"
WINDOWS = "llama-7b-hf/alpha_peak_tbv3/usesldTrue_numrow2000_Q1.0_step10_ops10.npy"


@pytest.fixture(scope="module")
def recipe():
    return data.module("03", "make_released")


@pytest.fixture(scope="module")
def stored():
    return data.read_json(HERE / "released.json")


@pytest.fixture(scope="module")
def real(recipe, tutorials_data):
    folder = tutorials_data / "farms"
    if not folder.is_dir():
        pytest.skip("TUTORIALS_DATA has no folder farms")
    return recipe.theirs(folder)


@pytest.fixture
def files(tmp_path):
    """Exponents of 224 layers, 2 to 225, in the authors' two places."""
    for name, first in ((FULL, 2.0), (WINDOWS, 3.0)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / name, np.arange(first, first + 224))
    return tmp_path


def test_exponents_are_read_block_by_block(files, monkeypatch):
    for folder in (files, str(files)):
        full = released.exponents("LLaMA-7B", folder=folder)
        assert full.shape == (32, 7) and full.dtype == np.float64
        assert full[0].tolist() == [2, 3, 4, 5, 6, 7, 8] and full[31, 6] == 225
    assert released.exponents("LLaMA-7B", 10, files)[1, 0] == 10
    files.rename(files.with_name("farms"))
    monkeypatch.setenv("TUTORIALS_DATA", str(files.parent))
    np.testing.assert_array_equal(released.exponents("LLaMA-7B"), full)


def test_what_is_not_there_is_named(files, monkeypatch):
    with pytest.raises(ValueError, match="'LLaMA-65B' is none of LLaMA-7B, LLaMA-13B"):
        released.exponents("LLaMA-65B", folder=files)
    with pytest.raises(FileNotFoundError, match=r"llama-7b-hf/alpha_peak_tbv3/.*ops15\.npy is not"):
        released.exponents("LLaMA-7B", 15, files)
    with pytest.raises(FileNotFoundError, match=r"llama-13b-hf/alpha_peak\.npy is not in"):
        released.exponents("LLaMA-13B", folder=files)
    monkeypatch.delenv("TUTORIALS_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="set TUTORIALS_DATA"):
        released.exponents("LLaMA-7B")


def as_bytes(content, **options):
    buffer = io.BytesIO()
    np.save(buffer, content, **options)
    return buffer.getvalue()


LAYERS = np.arange(2.0, 226.0)
NOT_A_NUMBER, ONE = LAYERS.copy(), LAYERS.copy()
NOT_A_NUMBER[100], ONE[223] = np.nan, 1
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1920\n"


def zipped():
    buffer = io.BytesIO()
    np.savez(buffer, alphas=LAYERS)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (as_bytes(LAYERS.astype(object), allow_pickle=True), "no NumPy file of plain numbers"),
        (LAYERS.astype(object).dumps(), "no NumPy file of plain numbers: .*pickle"),
        (POINTER, "no NumPy file of plain numbers"),
        (b"", "no NumPy file of plain numbers"),
        (as_bytes(LAYERS)[:-8], "no NumPy file of plain numbers"),
        (zipped(), "one array of floating-point numbers"),
        (as_bytes(LAYERS.astype(int)), "one array of floating-point numbers"),
        (as_bytes(LAYERS[:-7]), r"shape \(217,\); 32 blocks of 7 layers need \(224,\)"),
        (as_bytes(LAYERS.reshape(32, 7)), r"shape \(32, 7\)"),
        (as_bytes(NOT_A_NUMBER), "not numbers above 1"),
        (as_bytes(ONE), "not numbers above 1"),
        (as_bytes(np.append(LAYERS[1:], np.inf)), "not numbers above 1"),
    ],
)
@pytest.mark.parametrize(("name", "positions"), [(FULL, None), (WINDOWS, 10)])
def test_an_unusable_file_is_named(files, content, message, name, positions):
    (files / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.* {message}"):
        released.exponents("LLaMA-7B", positions, files)


# ------------------------------------------------------------------------------------- the recipe


def test_map_by_hand(recipe):
    share = recipe.ratios(np.array([1.0, 2, 3]), 0.5, 0.2)
    np.testing.assert_allclose(share, [0.4, 0.5, 0.6], atol=1e-12)
    share = recipe.ratios(np.array([0.0, 0, 3]), 0.8, 0.5)  # 0.5, 0.5, 1.5 with mean 5/6
    np.testing.assert_allclose(share, [0.48, 0.48, 1.44], atol=1e-12)


def test_map_is_our_allocation_wherever_nothing_is_clamped(recipe):
    scores = np.random.default_rng(0).normal(3, 1, 32)
    ours = recipe.numbers.allocate(scores, np.ones(32), 0.7, 0.2)
    np.testing.assert_allclose(recipe.ratios(scores, 0.7, 0.2), ours, atol=1e-12)


@pytest.mark.parametrize(("sparsity", "top"), [(0.7, 0.99999), (0.75, 0.998), (0.85, 0.998)])
def test_clamp_by_hand(recipe, sparsity, top):
    share = recipe.clamped(np.array([0.3, 0.999, 1.0, 1.0001, 1.2]), sparsity)
    assert share.tolist() == [0.3, 0.999, 1.0, top, top]  # nothing is given to the others


def test_cell_by_hand(recipe):
    full, farms = np.array([1.0, 2, 3]), np.array([3.0, 2, 1])
    own = recipe.cell(full, farms, 0.8, (0.1, 0.5))
    assert own["AlphaPruning"] == {
        "epsilon": 0.1, "sparsity": 0.8, "clamped": 0, "largest": 0.88,
    }  # fmt: skip
    assert own["FARMS"] == {
        "epsilon": 0.5, "sparsity": 0.7327, "clamped": 1, "largest": 1.2,
    }  # fmt: skip
    # AlphaPruning .72 .8 .88, with FARMS's epsilon .4 .8 .998; FARMS .998 .8 .4, with .1 .88 .8 .72
    assert own["change of block sparsity"] == {
        "both": round((0.278 + 0.48) / 3, 4),
        "epsilon alone": round((0.32 + 0.118) / 3, 4),
        "estimator alone, FARMS's epsilon": round(2 * 0.598 / 3, 4),
        "estimator alone, AlphaPruning's epsilon": round(2 * 0.16 / 3, 4),
    }


def test_distance_to_a_ramp(recipe):
    even = recipe.against_ramp(np.arange(30.0))
    assert even["as it is"] == even["order of depth"] == 0 < even["random order"]
    down = recipe.against_ramp(-np.arange(30.0))
    assert down["order of depth"] == 0 and down["as it is"] > down["random order"]
    scores, rng = np.random.default_rng(1).normal(size=30), np.random.default_rng(2)
    drawn = [recipe.against_ramp(rng.permutation(scores))["as it is"] for _ in range(2000)]
    assert recipe.against_ramp(scores)["random order"] == pytest.approx(np.mean(drawn), abs=1e-3)


def test_summary_by_hand(recipe):
    alphas = np.full((8, 7), 2.0)
    alphas[:, 4:] = 4
    alphas[7, 6] = 11
    own = recipe.summary(alphas)
    assert own["means"] == {"attention": 2, "MLP": round(4 + 7 / 24, 4), "all": 2.9821}
    assert own["quantiles"]["MLP"][-2:] == [4, 11] and own["quantiles"]["attention"] == [2] * 7
    assert own["means by depth"] == [2.8571] * 7 + [3.8571]


def test_every_cell_of_the_scripts_is_there(recipe, stored):
    listed = {(m, p) for m, own in stored["cells"].items() for p in own}
    assert listed == set(recipe.EPSILON) and len(listed) == 6
    for (model, pruner), row in recipe.EPSILON.items():
        for sparsity, eps in zip(recipe.SPARSITIES, row, strict=True):
            own = stored["cells"][model][pruner][str(sparsity)]
            assert (own["AlphaPruning"]["epsilon"], own["FARMS"]["epsilon"]) == eps
            assert own["positions"] in recipe.POSITIONS[model]
            for method in ("AlphaPruning", "FARMS"):
                assert own[method]["sparsity"] <= sparsity
                assert (own[method]["clamped"] > 0) == (own[method]["largest"] > 1)
            change = own["change of block sparsity"]
            assert (change["epsilon alone"] == 0) == (eps[0] == eps[1])


def test_stored_numbers_of_our_models_are_those_of_their_exponents(recipe, stored):
    for name in recipe.numbers.HEIGHT:
        assert json.loads(json.dumps(recipe.measured(recipe.ours(name)))) == stored["models"][name]


def test_numbers_that_the_notebook_tells(stored):
    model, pruner, sparsity = stored["headline"]
    headline = stored["cells"][model][pruner][str(sparsity)]
    assert headline["AlphaPruning"]["sparsity"] == headline["FARMS"]["sparsity"] == sparsity
    assert [headline[method]["epsilon"] for method in ("AlphaPruning", "FARMS")] == [0.1, 0.2]
    uneven = stored["cells"]["LLaMA-7B"]["magnitude"]["0.7"]
    assert uneven["AlphaPruning"]["sparsity"] == 0.7
    assert uneven["FARMS"] == {
        "epsilon": 0.6, "sparsity": 0.6883, "clamped": 5, "largest": 1.1241,
    }  # fmt: skip
    for name, own in stored["models"].items():
        depth = [spectrum["rank correlation with depth"] for spectrum in own["windows"].values()]
        assert min(depth) > 0.8 if name.startswith("LLaMA") else max(map(abs, depth)) < 0.36


def test_released_exponents_give_the_stored_numbers(recipe, real, stored):
    for model, spectra in real.items():
        assert json.loads(json.dumps(recipe.measured(spectra))) == stored["models"][model]
    assert json.loads(json.dumps(recipe.cells(real))) == stored["cells"]


def lists(content):
    if isinstance(content, list):
        yield content
    elif isinstance(content, dict):
        for own in content.values():
            yield from lists(own)


def test_no_array_of_the_authors_is_published(recipe, stored):
    assert max(map(len, lists(stored))) == recipe.PARTS  # no list of blocks, let alone of layers


def test_wikitext_is_read_as_plain_text_or_parquet(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="WikiText-2 is not here"):
        released.wikitext(tmp_path)
    other = tmp_path / "another-set" / "test-00000-of-00001.parquet"
    other.parent.mkdir()
    other.write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="WikiText-2 is not here"):
        released.wikitext(tmp_path)
    inner = tmp_path / "wikitext-2-raw-v1"
    inner.mkdir()
    parquet = inner / "test-00000-of-00001.parquet"
    parquet.write_bytes(b"")
    rows = [" = Title = \n", "", "A text .\n"]
    monkeypatch.setattr(
        released.pd, "read_parquet", lambda path: released.pd.DataFrame({"text": rows})
    )
    assert released.wikitext(tmp_path) == "".join(rows)
    monkeypatch.setattr(
        released.pd, "read_parquet", lambda path: released.pd.DataFrame({"words": rows})
    )
    with pytest.raises(ValueError, match=r"parquet: column 'text'"):
        released.wikitext(tmp_path)
    (inner / "wiki.test.raw").write_text("Łódź .\n", encoding="utf-8-sig")
    monkeypatch.setenv("TUTORIALS_DATA", str(tmp_path))
    assert released.wikitext() == "Łódź .\n"
