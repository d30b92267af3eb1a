"""The shaping term: hand-computed cases of the equations, parity with verl, and the invariants of each mode."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aspo import (
    ASPOConfig,
    StructuralFeatures,
    compute_aspo_advantage,
    features_from_segments,
    shaping_diagnostics,
    shaping_term,
    shaping_terms,
)
from aspo.advantage import phi_of_batch, placebo_order, shaping_shift
from aspo.groups import group_rows, grpo_advantage, standardised

PAPER = ASPOConfig(lam=0.5, alpha=1.0, beta=1.0, gamma=0.5, psi_k=5.0)
REWARD = ASPOConfig(lam=0.5, alpha=1.0, beta=1.0, gamma=0.5, mode="reward")


def features(*rows: tuple[str, float]) -> StructuralFeatures:
    """Features of trajectories, each given as (actions such as "think,python,answer", relative first-tool offset)."""
    names = [row[0].split(",") for row in rows]
    tools = [any(name in ("python", "search") for name in row) for row in names]
    return StructuralFeatures(
        torch.tensor([row[-2:] == ["python", "answer"] for row in names]),
        torch.tensor([("python", "think") in zip(row, row[1:]) for row in names]),
        *2 * [torch.tensor([int(1000 * row[1]) if tool else -1 for row, tool in zip(rows, tools)])],
        torch.full((len(rows),), 1000),
        torch.tensor([row.count("python") for row in names]),
        torch.tensor([row.count("search") for row in names]),
    )


@pytest.mark.parametrize(
    ("actions", "is_math", "phi"),
    [
        ("think,python,answer", True, 1.1839),
        ("think,python,think,answer", True, -0.8161),
        ("think,python,think,python,answer", True, 0.1839),
        ("think,search,think,answer", False, 0.0),
        ("think,python,answer", False, 1.0),
        ("think,answer", True, 0.0),
    ],
)
def test_phi_equals_hand_computed_values(actions, is_math, phi):
    value = shaping_term(features((actions, 0.2)), torch.tensor([is_math]), PAPER)
    assert value.item() == pytest.approx(phi, abs=1e-4)


def test_early_tool_term_equals_table_of_psi():
    for u, psi in ((0, 1), (0.1, 0.607), (0.2, 0.368), (0.3, 0.223), (0.5, 0.082), (1, 0.0067)):
        term = shaping_terms(features(("think,python,answer", u)), torch.tensor([True]), PAPER)["early_tool"]
        assert term.item() == pytest.approx(0.5 * psi, abs=6e-4)


@pytest.mark.parametrize("psi", ["exp", "sigmoid", "rational", "linear"])
def test_every_psi_decreases(psi):
    config = ASPOConfig(psi=psi)
    rows = features(*[("think,python,answer", u / 10) for u in range(11)])
    term = shaping_terms(rows, torch.ones(11, dtype=torch.bool), config)["early_tool"]
    assert (term[1:] < term[:-1]).all() and (term >= 0).all()


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([1, 0, 0, 0], [1.5, -0.5, -0.5, -0.5]),
        ([1, 1, 0, 0], [0.8660, 0.8660, -0.8660, -0.8660]),
        ([1, 1, 1, 0], [0.5, 0.5, 0.5, -1.5]),
        ([-1, 0, 0, 1], [-1.2247, 0, 0, 1.2247]),
        ([1, 1, 1, 1], [0, 0, 0, 0]),
        ([1.1, 1, 0, -1], [0.8380, 0.7364, -0.2793, -1.2951]),
    ],
)
def test_grpo_advantage_equals_hand_computed_values(scores, expected):
    rewards = torch.tensor(scores, dtype=torch.float32)[:, None]
    advantages, _ = compute_aspo_advantage(
        rewards,
        torch.ones(4, 1),
        [0] * 4,
        features(*[("think,answer", 0)] * 4),
        torch.zeros(4, dtype=torch.bool),
        ASPOConfig(lam=0.0),
    )
    assert advantages[:, 0].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("norm_by_std", [True, False])
@pytest.mark.parametrize("mode", ["additive", "clipped", "centered"])
def test_zero_lambda_is_bit_identical_to_verls_grpo(dtype, norm_by_std, mode):
    core_algos = pytest.importorskip("verl.trainer.ppo.core_algos")
    rng = np.random.default_rng(0)
    for case in range(40):
        batch, length = int(rng.integers(1, 65)), int(rng.integers(1, 40))
        index = rng.integers(0, max(1, batch // int(rng.integers(1, 9))), batch)  # uneven, not contiguous
        index = index if case % 2 else np.array([f"uid-{value}" for value in index], dtype=object)
        rewards = torch.zeros(batch, length, dtype=dtype)
        rewards[:, -1] = torch.tensor(rng.choice([-1, 0, 0.37, 1, 1.1], batch), dtype=dtype)
        mask = torch.tensor(rng.integers(0, 2, (batch, length)))
        expected, expected_returns = core_algos.compute_grpo_outcome_advantage(
            rewards.clone(), mask, index, norm_adv_by_std_in_grpo=norm_by_std
        )
        rows = features(*[("think,python,answer", 0.3)] * batch)
        advantages, returns = compute_aspo_advantage(
            rewards,
            mask,
            index,
            rows,
            torch.ones(batch, dtype=torch.bool),
            ASPOConfig(lam=0.0, mode=mode, norm_by_std=norm_by_std),
        )
        assert advantages.dtype == expected.dtype
        assert torch.equal(advantages, expected) and torch.equal(returns, expected_returns)


def random_batch(seed: int, batch: int = 64):
    """(features, scores, group index, is_math) of a random batch."""
    rng = np.random.default_rng(seed)
    actions = [
        "think,answer",
        "think,python,answer",
        "think,python,think,answer",
        "think,search,think,answer",
        "think,python,think,python,answer",
    ]
    rows = features(*[(str(rng.choice(actions)), float(rng.random())) for _ in range(batch)])
    scores = torch.tensor(rng.choice([-1.0, 0.0, 0.4, 1.0, 1.1], batch), dtype=torch.float32)
    return rows, scores, rng.integers(0, batch // 4, batch), torch.tensor(rng.random(batch) < 0.5)


def scalar_advantage(scores, index, rows, is_math, config):
    """The shaped advantage of each trajectory, (B,), with one policy token per trajectory."""
    return compute_aspo_advantage(scores[:, None], torch.ones(len(scores), 1), index, rows, is_math, config)[0][:, 0]


@given(st.integers(0, 10_000), st.floats(0.01, 0.99), st.sampled_from([None, -2.0, -2.5]), st.floats(0.0, 10.0))
@settings(max_examples=200, deadline=None)
def test_clipped_mode_keeps_sign_and_respects_bound(seed, kappa, delta, lam):
    rows, scores, index, is_math = random_batch(seed)
    config = ASPOConfig(mode="clipped", clip_kappa=kappa, delta=delta, lam=lam)
    plain = scalar_advantage(scores, index, rows, is_math, ASPOConfig(lam=0.0))
    shaped = scalar_advantage(scores, index, rows, is_math, config)
    shift = shaped - plain
    assert (shift.abs() <= kappa * plain.abs() + 1e-6).all()
    assert ((plain * shaped >= 0) | (plain.abs() < 1e-6)).all()
    untouched = (scores <= 0.5) | (rows.n_python == 0)
    assert torch.equal(shaped[untouched], plain[untouched])


def test_clipped_delta_reproduces_lin_and_xu():
    # Three correct responses with code, at offsets 100, 200, 600 of 1000 characters, and one wrong response.
    rows = features(
        ("think,python,answer", 0.1),
        ("think,python,answer", 0.2),
        ("think,python,answer", 0.6),
        ("think,python,answer", 0.9),
    )
    scores = torch.tensor([1.0, 1.0, 1.0, 0.0])
    config = ASPOConfig(mode="clipped", delta=-2.0, clip_kappa=0.7, lam=1.0)
    shaped = scalar_advantage(scores, [0] * 4, rows, torch.ones(4, dtype=torch.bool), config)
    # Correct responses have A = .5 and bound .35. Raw shifts: -2 * (p - .3) = .4, .2, -.6.
    assert shaped.tolist() == pytest.approx([0.85, 0.70, 0.15, -1.5], abs=1e-4)


def test_clipped_delta_uses_offset_of_first_python_tag_not_of_earlier_search():
    early = {"by": "model", "text": "<search>a</search>" + 40 * "." + "<python>1</python><answer>1</answer>"}
    late = {"by": "model", "text": 100 * "." + "<search>a</search><python>1</python><answer>1</answer>"}
    rows = features_from_segments([[early], [late]])
    assert rows.first_tool_offset.tolist() == [0, 100] and rows.first_python_offset.tolist() == [58, 118]
    config = ASPOConfig(mode="clipped", delta=-2.0, lam=1.0)
    shift = shaping_shift(
        torch.tensor([9.0, 9.0]), torch.ones(2), group_rows([0, 0]), rows, torch.ones(2, dtype=torch.bool), config
    )
    mean = (len(early["text"]) + len(late["text"])) / 2
    assert shift.tolist() == pytest.approx([60 / mean, -60 / mean])


def test_reward_of_one_half_is_correct():
    """The paper counts a QA answer with F1 >= 0.5 as correct."""
    shift = shaping_shift(
        torch.ones(2),
        torch.tensor([0.5, 0.49]),
        group_rows([0, 0]),
        features(*2 * [("think,python,answer", 0.2)]),
        torch.zeros(2, dtype=torch.bool),
        ASPOConfig(require_correct=True),
    )
    assert shift.tolist() == [0.5, 0.0]


@given(st.integers(0, 10_000))
@settings(max_examples=100, deadline=None)
def test_centered_shift_has_zero_group_mean(seed):
    rows, scores, index, is_math = random_batch(seed)
    shift = scalar_advantage(scores, index, rows, is_math, ASPOConfig(mode="centered")) - scalar_advantage(
        scores, index, rows, is_math, ASPOConfig(lam=0.0)
    )
    for label in set(index.tolist()):
        assert shift[torch.tensor(index == label)].mean().item() == pytest.approx(0.0, abs=1e-5)


def test_require_correct_does_not_shape_wrong_answers():
    rows, scores, index, is_math = random_batch(3)
    plain = scalar_advantage(scores, index, rows, is_math, ASPOConfig(lam=0.0))
    shaped = scalar_advantage(scores, index, rows, is_math, ASPOConfig(require_correct=True))
    assert torch.equal(shaped[scores < 0.5], plain[scores < 0.5]) and not torch.equal(shaped, plain)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lam": -1}, "lam = -1"),
        ({"psi": "cosine"}, "exp, sigmoid, rational, linear"),
        ({"mode": "x"}, "additive"),
        ({"clip_kappa": 1.0}, "strictly between 0 and 1"),
        ({"delta": -2.0}, "only mode 'clipped'"),
        ({"alpha": float("nan")}, "alpha"),
        ({"gamma": "0.5"}, "must be a number"),
        ({"norm_by_std": 1}, "true or false"),
        ({"permuted": 1}, "permuted = 1: must be true or false"),
        ({"tasks": "qa"}, "math, all"),
        ({"scale": "batch"}, "none, group"),
        ({"mode": "clipped", "delta": -2.0, "scale": "group"}, "permuted, tasks and scale would have no effect"),
    ],
)
def test_error_names_invalid_coefficient_and_reason(arguments, message):
    with pytest.raises(ValueError, match="ASPOConfig") as caught:
        ASPOConfig(**arguments)
    assert message in str(caught.value)


# --- controls: phi in the reward, a placebo, phi on all tasks, standardised terms -------------------------------------


def test_phi_in_the_reward_is_normalised_with_it():
    """Rewards 1, 0 and phi 1, -1 with lambda 0.5: shaped rewards 1.5, -0.5; mean 0.5, deviation sqrt(2)."""
    rows = features(("think,python,answer", 0.0), ("think,python,think,answer", 0.0))
    shaped = scalar_advantage(torch.tensor([1.0, 0.0]), [0, 0], rows, torch.zeros(2, dtype=torch.bool), REWARD)
    assert shaped.tolist() == pytest.approx([1 / 2**0.5, -1 / 2**0.5], abs=1e-5)


@pytest.mark.parametrize("lam", [0.01, 0.5, 10.0])
def test_lambda_cancels_in_the_reward_where_all_rewards_are_equal(lam):
    """The normalisation divides by the spread of lambda * phi. In the advantage the shift is lambda * phi itself."""
    rows = features(("think,python,answer", 0.0), *[("think,answer", 0.0)] * 3)
    is_math = torch.zeros(4, dtype=torch.bool)
    reward, additive = (ASPOConfig(lam=lam, mode=mode) for mode in ("reward", "additive"))
    shaped = scalar_advantage(torch.ones(4), [0] * 4, rows, is_math, reward)
    assert shaped.tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-3)
    assert scalar_advantage(torch.ones(4), [0] * 4, rows, is_math, additive)[0].item() == pytest.approx(lam)


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_phi_in_the_reward_equals_grpo_of_the_shaped_reward(seed):
    rows, scores, index, is_math = random_batch(seed)
    groups, rewards = group_rows(index), scores + 0.5 * shaping_term(rows, is_math, REWARD)
    shaped = scalar_advantage(scores, index, rows, is_math, REWARD)
    assert torch.allclose(shaped, grpo_advantage(rewards, groups, 1e-6, True), atol=1e-5)
    for group in groups:
        if len(group) > 1 and rewards[group].std() > 1e-3:  # below, GRPO divides the rounding of the mean by epsilon
            assert shaped[group].mean().item() == pytest.approx(0.0, abs=1e-3)


def test_a_placebo_has_the_values_of_phi_in_an_order_of_the_seed_and_the_step():
    rows, scores, index, is_math = random_batch(5)
    config, groups = ASPOConfig(permuted=True), group_rows(index)
    phi = shaping_term(rows, is_math, config)
    drawn = {at: phi_of_batch(rows, is_math, groups, config, placebo_order(64, *at)) for at in ((1, 1), (1, 2), (2, 1))}
    for values in drawn.values():
        assert torch.equal(values.sort().values, phi.sort().values) and not torch.equal(values, phi)
    assert not torch.equal(drawn[1, 1], drawn[1, 2]) and not torch.equal(drawn[1, 1], drawn[2, 1])
    again = phi_of_batch(rows, is_math, groups, config, placebo_order(64, 1, 1))
    assert torch.equal(again, drawn[1, 1])
    shift = shaping_shift(torch.zeros(64), scores, groups, rows, is_math, config, placebo_order(64, 1, 1))
    assert torch.equal(shift, config.lam * drawn[1, 1])


def test_a_placebo_says_nothing_about_the_trajectory():
    """The mean over many orders of a trajectory's phi is the mean of the batch."""
    rows = features(("think,python,answer", 0.0), *[("think,answer", 0.0)] * 3)
    config, is_math = ASPOConfig(permuted=True), torch.zeros(4, dtype=torch.bool)
    draws = [phi_of_batch(rows, is_math, group_rows([0] * 4), config, placebo_order(4, 1, n)) for n in range(4000)]
    assert torch.stack(draws).mean(0).tolist() == pytest.approx([0.25] * 4, abs=0.03)


def test_a_placebo_without_an_order_is_an_error():
    rows, scores, index, is_math = random_batch(1)
    with pytest.raises(ValueError, match="needs an order of the rows, from `placebo_order`"):
        scalar_advantage(scores, index, rows, is_math, ASPOConfig(permuted=True))


def test_phi_on_all_tasks_gives_questions_the_early_tool_term_too():
    rows = features(("think,search,think,answer", 0.2), ("think,python,answer", 0.2), ("think,answer", 0.2))
    is_math = torch.tensor([False, True, False])
    early = shaping_terms(rows, is_math, ASPOConfig(tasks="all"))["early_tool"]
    assert early.tolist() == pytest.approx([0.1839, 0.1839, 0.0], abs=1e-4)
    assert shaping_terms(rows, is_math, ASPOConfig())["early_tool"].tolist() == pytest.approx([0, 0.1839, 0], abs=1e-4)


def test_a_standardised_term_has_unit_spread_in_each_group_and_is_zero_where_it_is_constant():
    term = torch.tensor([0.0, 0.1, 0.1, 0.3, 7.0, 1.0, 1.0])
    scaled = standardised(term, group_rows([0, 1, 1, 0, 2, 0, 1]))  # groups: 0, .3, 1; .1, .1, 1; 7 alone
    assert scaled[[0, 3, 5]].std().item() == pytest.approx(1.0)
    assert scaled[[0, 3, 5]].mean().item() == pytest.approx(0, abs=1e-6)
    # .1, .1, 1: mean .4, deviation .5196.
    assert scaled[[1, 2, 6]].tolist() == pytest.approx([-0.5774, -0.5774, 1.1547], abs=1e-4)
    assert scaled[4] == 0 and (standardised(torch.full((4,), 0.1), group_rows([0] * 4)) == 0).all()


def test_standardised_terms_count_by_their_coefficients_and_not_by_their_spread():
    """Offsets that differ by 2 % of the text move the shaped advantage as much as gamma says."""
    rows = features(("think,python,answer", 0.50), ("think,python,answer", 0.52))
    phi = [
        phi_of_batch(rows, torch.ones(2, dtype=torch.bool), group_rows([0, 0]), config)
        for config in (ASPOConfig(gamma=0.5, scale="group"), ASPOConfig(gamma=0.5))
    ]
    assert phi[0].tolist() == pytest.approx([0.5 / 2**0.5, -0.5 / 2**0.5], abs=1e-4)  # the closure term is constant
    assert (phi[1][0] - phi[1][1]).item() < 0.005


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_standardised_terms_do_not_move_a_groups_mean(seed):
    rows, scores, index, is_math = random_batch(seed)
    phi = phi_of_batch(rows, is_math, group_rows(index), ASPOConfig(scale="group"))
    assert torch.isfinite(phi).all()
    for group in group_rows(index):
        assert phi[group].mean().item() == pytest.approx(0.0, abs=1e-5)


def test_diagnostics_equal_hand_computed_values():
    rows = features(
        *[("think,python,answer", 0.2)] * 2,
        *[("think,python,think,answer", 0.2)] * 2,
        *[("think,search,think,answer", 0.2)] * 4,
    )
    scores = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    is_math = torch.tensor([True] * 4 + [False] * 4)
    metrics = shaping_diagnostics(scores, [0] * 4 + [1] * 4, rows, is_math, PAPER)
    assert metrics["aspo/fire/closure/math/correct"] == pytest.approx(2 / 3)
    assert metrics["aspo/fire/backtrack/math/wrong"] == 1.0
    assert all(value == 0 for name, value in metrics.items() if "/qa/" in name)
    shaped = torch.tensor([0.5, 0.5, 0.5, -1.5]) + 0.5 * shaping_term(rows, is_math, PAPER)[:4]
    assert metrics["aspo/variance_ratio/math"] == pytest.approx(float(shaped.var()) / 1.0, rel=1e-4)
    assert metrics["aspo/zero_variance_groups"] == 1.0 and metrics["aspo/phi_only_share"] == 0.0
    # No QA trajectory is wrong, and the QA rewards have no variance: these metrics are left out.
    assert "aspo/fire/closure/qa/wrong" not in metrics and "aspo/variance_ratio/qa" not in metrics
    # The three correct trajectories have A = .5. The largest negative shift is -.408, so no sign flips.
    assert metrics["aspo/sign_flips"] == 0.0 and 0 < metrics["aspo/shift_share"] < 1


def test_additive_phi_moves_the_optimum():
    """Two trajectories of a one-step problem, rewards 1.0 and 0.9: the shaped gradient favours the second."""
    logits = torch.zeros(2, requires_grad=True)
    rewards = torch.tensor([1.0, 0.9])
    phi = shaping_term(features(("think,answer", 0.0), ("python,answer", 0.0)), torch.tensor([False, False]), PAPER)
    for objective, better in ((rewards, 0), (rewards + PAPER.lam * phi, 1)):
        (gradient,) = torch.autograd.grad((logits.softmax(0) * objective).sum(), logits)
        assert gradient.argmax().item() == better
