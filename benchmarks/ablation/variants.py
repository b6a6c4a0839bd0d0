"""What the ablation trains and claims: the same data, augmentation, schedule and steps, other losses and matchers."""

from __future__ import annotations

from typing import NamedTuple

SEEN = ("surgical", "cloth", "respirator", "sunglasses", "cap", "fringe", "block")
UNSEEN = ("hand", "niqab", "scarf")  # no member of the families hand and veil takes part in training
EPOCHS = 8
SEEDS = (1, 2, 3)
IDENTITIES, IMAGES = 200, 20

COMMON = (
    *("--arch", "ir_tiny", "--embedding_size", "128", "--head", "adaface", "--s", "32", "--m", "0.3"),
    *("--adaface_loss_weight", "1", "--batch_size", "32"),
    *("--optimizer", "adamw", "--lr", "4e-3", "--weight_decay", "0.05", "--lr_schedule", "cosine"),
    *("--warmup_steps", "50", "--occlusion_prob", "0.5", "--occluders", ",".join(SEEN)),
    *("--precision", "bf16", "--gpus", "0", "--num_workers", "0", "--val_occlusion", "none"),
)


class Variant(NamedTuple):
    """One row of the tables.

    Attributes:
        name: of its runs.
        flags: of main.py, beyond COMMON.
        seeds: one run for each.
        time_of: None, or the variant whose processor time this one is given instead of its number of steps.
    """

    name: str
    flags: str
    seeds: tuple[int, ...] = SEEDS[:1]
    time_of: Variant | None = None


class Method(NamedTuple):
    """One of evaluation's methods with the runs of a variant."""

    variant: Variant
    method: str


class Claim(NamedTuple):
    """A difference shown on test people, mean over seeds: first minus second."""

    title: str
    first: Method
    second: Method
    seeds: tuple[int, ...] = SEEDS

    @property
    def sides(self) -> tuple[Method, Method]:
        """Both sides."""
        return self.first, self.second


def training_flags(variant: Variant, seed: int, epochs: int) -> list[str]:
    """Return the words of one run's command line: the margin rises over the first 40 %, validation is at the end."""
    schedule = [
        *("--epochs", str(epochs), "--check_val_every_n_epoch", str(epochs)),
        *("--margin_warmup_epochs", f"{0.4 * epochs:g}"),
    ]
    return [*COMMON, *schedule, *variant.flags.split(), "--seed", str(seed)]


HEAD_ONLY = "--qaconv_loss_weight 0 --occlusion_loss_weight 0 --occlusion_method none"
MATCHER = "--qaconv_score weighted --qaconv_channels 64 --pairwise_reduction ranking"
CHOSEN = "--triplet_weight 0 --qaconv_loss_weight 1.4 --lr 8e-3"
METHOD = f"{MATCHER} --occlusion_method masking {CHOSEN}"
# The weights and the ranking loss of the published method, at the rate that suits the head.
PUBLISHED = "--adaface_loss_weight 0.1 --qaconv_loss_weight 0.7 --triplet_weight 0.5 --lr 4e-3"

HEAD = Variant("head", HEAD_ONLY, SEEDS)
FULL = Variant("full", METHOD, SEEDS)
BLIND = Variant("full-none", f"{METHOD} --occlusion_method none", SEEDS)
HEAD_FOR_LONGER = Variant("head-equal-time", HEAD_ONLY, SEEDS, time_of=FULL)

VARIANTS = (
    HEAD,
    FULL,
    BLIND,
    HEAD_FOR_LONGER,
    Variant("full-scaling", f"{METHOD} --occlusion_method scaling"),
    Variant("full-visibility-gradient", f"{METHOD} --visibility_gradient"),
    Variant("no-occlusion-head", f"{METHOD} --occlusion_method none --occlusion_loss_weight 0"),
    Variant("head-lr-2e-3", f"{HEAD_ONLY} --lr 2e-3"),
    Variant("head-lr-8e-3", f"{HEAD_ONLY} --lr 8e-3"),
    Variant("full-lr-4e-3", f"{METHOD} --lr 4e-3"),
    Variant("full-lr-12e-3", f"{METHOD} --lr 12e-3"),
    Variant("full-qaconv-0.7", f"{METHOD} --qaconv_loss_weight 0.7"),
    Variant("full-qaconv-2.8", f"{METHOD} --qaconv_loss_weight 2.8"),
    Variant("full-head-0.1", f"{METHOD} --adaface_loss_weight 0.1"),
    Variant("full-triplet-0.5", f"{METHOD} --triplet_weight 0.5"),
    Variant("full-balanced", f"{METHOD} --pairwise_reduction balanced"),
    Variant("full-mean", f"{METHOD} --pairwise_reduction mean"),
    Variant("full-row-sum", f"{METHOD} --pairwise_reduction row_sum"),
    Variant("full-bn_fc", f"{METHOD} --qaconv_score bn_fc"),
    Variant("full-no-projection", f"{METHOD} --qaconv_channels 0"),
    Variant("published-weighted", f"{METHOD} {PUBLISHED} --pairwise_reduction row_sum"),
    Variant("published-bn_fc", f"{METHOD} {PUBLISHED} --pairwise_reduction row_sum --qaconv_score bn_fc"),
)

CLAIMS = (
    Claim("fused minus head only", Method(FULL, "combined"), Method(HEAD, "adaface")),
    Claim("fused minus head only at equal time", Method(FULL, "combined"), Method(HEAD_FOR_LONGER, "adaface")),
    Claim("embedding minus head only", Method(FULL, "adaface"), Method(HEAD, "adaface")),
    Claim("fused minus its own embedding", Method(FULL, "combined"), Method(FULL, "adaface")),
    Claim("fused minus fused without visibility", Method(FULL, "combined"), Method(BLIND, "combined")),
    Claim("matcher minus matcher without visibility", Method(FULL, "qaconv"), Method(BLIND, "qaconv")),
)
