"""The problem: what is refused at the door, and of the texts to start from."""

from __future__ import annotations

import pytest
import torch

from iterref.constraint.automaton import Automaton
from iterref.constraint.canvas import Constraint
from iterref.denoiser import Wrapped
from iterref.problem import Problem
from tests.support.problems import LENGTH, model_of, no_reward, problem_of

INF = float("inf")


class Guided(Wrapped):
    def __call__(self, x_t, t, where, rows):
        return self.denoiser(x_t, t, where, rows)


def frozen(row: int, position: int, token: int) -> Problem:
    """A problem with one token of one frozen position set."""
    canvas, free = torch.zeros(2, LENGTH, dtype=torch.long), torch.ones(2, LENGTH, dtype=torch.bool)
    canvas[row, position], free[row, position] = token, False
    return Problem(model_of(), no_reward, canvas, free)


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: Problem(model_of(), no_reward, torch.zeros(0, 4)), r"none of them zero, got \(0, 4\)"),
        (lambda: Problem(model_of(), no_reward, torch.zeros(4, 0)), "none of them zero"),
        (lambda: Problem(model_of(), no_reward, torch.zeros(4)), "the canvas must be"),
        (lambda: problem_of(free=torch.ones(3, 5)), r"`free` has shape \(3, 5\), the canvas \(3, 6\)"),
        (lambda: problem_of(alpha=0.0), "alpha must be positive and finite, got 0.0"),
        (lambda: problem_of(alpha=-1.0), "alpha must be positive"),
        (lambda: problem_of(alpha=1e-300), "got 1e-300: smaller means more reward, down to 1e-200"),
        (lambda: problem_of(alpha=INF), "alpha must be positive"),
        (lambda: problem_of(alpha=float("nan")), "alpha must be positive"),
        (lambda: problem_of(max_rows=0), "max_rows must be at least 1"),
        (lambda: frozen(1, 2, 9), "row 1, position 2: token 9 is outside the vocabulary of 4"),
        (lambda: frozen(0, 5, -1), "row 0, position 5: token -1 is outside"),
        (lambda: frozen(1, 3, 3), "row 1, position 3: a frozen position holds the mask"),
        (lambda: problem_of(forbidden=[7]), "forbidden token 7 is outside the vocabulary of 4"),
        (lambda: problem_of(forbidden=[0, 1, 2]), "every token is forbidden"),
        (lambda: problem_of("uniform", forbidden=torch.arange(3)), "every token is forbidden"),
    ],
)
def test_refused_at_the_door(build, words):
    with pytest.raises(ValueError, match=words):
        build()


@pytest.mark.parametrize("denoiser", [model_of().__call__, Wrapped.__new__(Guided)])
def test_what_is_no_denoiser_is_refused(denoiser):
    """A function, and a class whose `__init__` has forgotten that of its base."""
    with pytest.raises(TypeError, match=r"the denoiser is a (method|Guided): pass an iterref\.Denoiser, whose `noise`"):
        Problem(denoiser, no_reward, torch.zeros(1, LENGTH))


@pytest.mark.parametrize(
    "position, token, words",
    [
        (0, 1, "row 1, position 0: token 1 cannot stand there"),  # frozen, and the canvas has 0 there
        (2, 3, "row 1, position 2: token 3"),  # the mask
        (2, 1, "row 1, position 2: token 1"),  # forbidden
        (2, 9, "row 1, position 2: token 9"),
        (2, -1, "row 1, position 2: token -1"),
    ],
)
def test_texts_to_start_from_are_checked(position, token, words):
    free = torch.ones(3, LENGTH, dtype=torch.bool)
    free[:, 0] = False
    problem = problem_of(free=free, forbidden=[1])
    texts = torch.where(free, 2, problem.canvas)
    assert torch.equal(problem.finished(texts.int()), texts)
    texts[1, position] = token
    with pytest.raises(ValueError, match=words):
        problem.finished(texts)
    with pytest.raises(ValueError, match="the texts have shape"):
        problem.finished(texts[:2])


def test_some_rows_and_several_of_each_keep_their_prompts():
    """Of copies and of parts, each row is still asked by its own prompt's number."""
    problem = problem_of()
    assert problem.repeated(1) is problem
    twice = problem.repeated(2)
    assert len(twice) == 6 and torch.equal(twice.canvas, problem.canvas.repeat_interleave(2, 0))
    assert twice.prompts.tolist() == [0, 0, 1, 1, 2, 2]
    part = twice.only(torch.tensor([5, 1]))
    assert part.prompts.tolist() == [2, 0] and torch.equal(part.canvas, problem.canvas[[2, 0]])


def test_a_constraint_has_a_row_for_each_canvas():
    steps = torch.tensor([[0, 0, 0]])
    automaton = Automaton.of_steps(steps, torch.ones(1, dtype=torch.bool))
    begin = torch.full((2, LENGTH), -1)
    constraint = Constraint(automaton, begin, begin == begin)
    with pytest.raises(ValueError, match="the constraint is of 2 canvases, the problem of 3"):
        problem_of(rows=3, constraint=constraint)
    problem = problem_of(rows=2, constraint=constraint).repeated(2)
    assert problem.constraint is not None and len(problem.constraint) == 4
