"""The ablation's measures against loops, and one tiny run of the program."""

import json

import numpy as np
import pytest
from untrained import write_checkpoint

from benchmarks.ablation import __main__ as program
from benchmarks.ablation import measures
from benchmarks.ablation.measures import Pairs
from benchmarks.ablation.scores import CONDITIONS, hide, pair_people, render_people
from benchmarks.ablation.variants import BASELINE, METHOD, RECIPES, SEEN, UNSEEN, Run
from config import get_args
from evaluation import Shares, fit_normalization
from transforms import OCCLUDER_FAMILIES, OCCLUDERS

PAGE = "".join(f"<!-- {name} -->\n<!-- /{name} -->\n\n" for name in ("deployed", "differences", "order", "shares"))


def test_unseen_occluders_share_no_family_with_those_of_the_training():
    families = {name: family for family, names in OCCLUDER_FAMILIES.items() for name in names}
    assert not {families[name] for name in SEEN} & {families[name] for name in UNSEEN}
    assert set(SEEN) | set(UNSEEN) == set(OCCLUDERS)


def test_people_of_the_groups_differ_and_draws_of_occluders_too():
    dev, test = render_people("dev", 2), render_people("test", 2)
    assert not np.array_equal(dev.images, test.images)
    first, again, other = hide(dev, SEEN, 0), hide(dev, SEEN, 0), hide(dev, SEEN, 1)
    np.testing.assert_array_equal(first.images, again.images)
    assert (first.images != other.images).any() and not first.visibility.all()


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.args")), ids=lambda path: path.stem)
def test_every_variant_is_a_valid_command_on_the_same_data(path):
    config, common = get_args([f"@{path}"]), get_args([f"@{RECIPES / 'common.args'}"])
    assert config.margin_warmup_epochs == pytest.approx(0.4 * config.epochs)
    assert set(config.occluders) == set(SEEN)
    alike = ("synthetic_identities", "synthetic_images", "batch_size", "occlusion_prob", "arch", "weight_decay")
    assert all(getattr(config, name) == getattr(common, name) for name in alike)


def test_pairs_stay_within_blocks_and_come_once():
    people = pair_people(90)  # blocks of 40, 40 and 10 people, 4 images each
    assert len(people) == 2 * 160 * 159 // 2 + 40 * 39 // 2
    assert (people // 40 == people[:, :1] // 40).all()
    assert (people[:, 0] == people[:, 1]).sum() == 90 * 6


def drawn_arms(pairs, seed):
    rng = np.random.default_rng(seed)

    def scores(gap):
        return rng.normal(size=pairs.issame.size) + gap * pairs.issame

    return {name: {"clean": [scores(gap)], "one": [scores(gap - 1) for _ in range(2)]} for name, gap in
            (("good", 4.0), ("bad", 2.0))}  # fmt: skip


def test_rates_are_counts_at_the_clean_threshold():
    people = pair_people(12)
    pairs = Pairs(people, people[:, 0] == people[:, 1])
    arms = [drawn_arms(pairs, seed) for seed in (0, 1)]
    found = measures.rates(arms, pairs, "one")
    fars, tars = [], []
    for by in arms:
        impostors = sorted(by["good"]["clean"][0][~pairs.issame])
        threshold = impostors[-int(0.01 * len(impostors))]
        for values in by["good"]["one"]:
            fars.append(np.mean([score >= threshold for score in values[~pairs.issame]]))
            tars.append(np.mean([score >= threshold for score in values[pairs.issame]]))
    assert found["good"].far[0] == pytest.approx(100 * np.mean(fars), rel=1e-5)
    assert found["good"].tar[0] == pytest.approx(100 * np.mean(tars), rel=1e-5)
    better = measures.interval(found["good"].tar - found["bad"].tar)
    assert better.lower > 0 and better.lower < better.estimate < better.upper


def test_a_resample_weighs_a_pair_by_its_people(monkeypatch):
    people = np.array([[0, 0], [0, 1], [1, 1], [0, 2], [2, 2]])
    pairs = Pairs(people, people[:, 0] == people[:, 1])
    counts = np.array([[2, 1, 0]])

    class Fixed:
        def multinomial(self, *arguments):
            return counts

    monkeypatch.setattr(measures.np.random, "default_rng", lambda seed: Fixed())
    monkeypatch.setattr(measures, "NUM_RESAMPLES", 1)
    monkeypatch.setattr(measures, "_RESAMPLES_AT_ONCE", 1)
    accepted = np.array([[1, 0, 0, 1, 1]], np.float32)
    once, drawn = measures._resampled(accepted, pairs)
    np.testing.assert_allclose(once[0, :, 0], [1 / 2, 2 / 3])
    np.testing.assert_allclose(drawn[0, :, 0], [0 / 2, 2 / 3])  # impostor (0, 1) weighs 2, (0, 2) nothing


@pytest.mark.slow
def test_the_program_scores_runs_and_writes_tables_and_picture(tmp_path):
    rng = np.random.default_rng(0)
    shares = Shares(*(rng.random(400) for _ in range(3)))
    scores = {"adaface": rng.normal(size=400), "qaconv": rng.normal(size=400)}
    learned = fit_normalization(scores, shares, np.zeros(400, bool), measures.WEIGHTS, "a test")
    for variant, options in ((METHOD, {}), (BASELINE, {"qaconv_loss_weight": 0.0, "occlusion_loss_weight": 0.0,
                                                       "occlusion_method": "none"})):  # fmt: skip
        folder = tmp_path / f"ablation-{variant}-1_01-01_0"
        (folder / "report").mkdir(parents=True)
        (folder / "report/results.json").write_text("{}")
        write_checkpoint(folder / "last.ckpt", normalization=learned if variant == METHOD else None, **options)
    assert Run(tmp_path, METHOD, 1).folder is not None
    (tmp_path / "page.md").write_text(PAGE)
    arguments = ["--people", "44", "--dev-people", "40", "--draws", "2", "--runs", str(tmp_path)]
    arguments += ["--docs", str(tmp_path / "page.md"), "--picture", str(tmp_path / "picture.png")]
    assert program.main(arguments) == 0
    text = (tmp_path / "page.md").read_text()
    assert all(f"| {name} |" in text for name in ("head only, normalized", "fused, raw", "fused"))
    assert "matcher: true map minus predicted map" in text
    found = json.loads((tmp_path / "ablation.json").read_text())
    assert list(found["rates"]) == list(CONDITIONS) and found["draws"] == 2
    assert (tmp_path / "picture.png").stat().st_size > 5000
    with pytest.raises(SystemExit) as refused:
        program.main([*arguments[:6], "--runs", str(tmp_path / "nothing")])
    assert refused.value.code == 2
