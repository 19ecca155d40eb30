"""Tuned methods: options are chosen on validation rows alone, and compared on others."""

from benchmarks.tasks import tuned
from iterref.samplers.strings import sampler_from_string


def test_every_method_of_the_grid_is_known_and_differs_from_the_others():
    named = tuned.methods()
    assert len({sampler_from_string(name) for name in named}) == len(named) > 50
    assert tuned.OURS not in named


class Numbered:
    """A task whose samples are their rows' numbers."""

    main = "judge"

    def plain(self, case):
        return 2

    def sample(self, case, method, budget, rows, seed):
        return rows.double().numpy()

    def judge(self, case, result, rows):
        return {"reward": result, "judge": -result}


def test_options_are_chosen_on_other_rows_than_the_test_has(monkeypatch):
    monkeypatch.setattr(tuned, "_task", lambda name, data: Numbered())
    cell = {"task": "constraints", "case": "brackets", "method": "vgb", "rows": 4, "seed": 0}
    made = {part: tuned.Work(None)({**cell, "part": part}) for part in tuned.PARTS}
    assert made["validation"] == {"reward": 1001.5, "main": -1001.5, "judged_by": "judge"}
    assert made["test"]["reward_values"] == "0 1 2 3"


def test_the_best_on_validation_rows_is_chosen_whatever_the_test_says(tmp_path):
    ledger = tuned.runs(tmp_path)
    of = {"task": "constraints", "case": "brackets", "rows": 4, "seed": 0}
    for method, reward, j in (("svdd", -1.0, -9.0), ("vgb", -2.0, -8.0)):
        ledger.add({**of, "part": "validation", "method": method, "reward": reward, "main": 0.5, "j": j})
    ledger.add({**of, "part": "validation", "method": "beam", "note": "refused"})
    for method, rewards in (("svdd", "-3 -3 -3 -1"), ("vgb", "0 0 0 0"), ("auto", "-1 -1 -1 1")):
        values = {f"{measure}_values": rewards for measure in tuned.MEASURES}
        ledger.add({**of, "part": "test", "method": method, **values, "main": 0, "reward": -1, "judged_by": "solved"})
    assert tuned.chosen(ledger.rows(), "constraints", "brackets") == {"reward": "svdd", "main": "svdd", "j": "vgb"}
    ledger.add({**of, "case": "sudoku9", "part": "validation", "method": "vgb", "reward": 0.0})  # and no test of it yet
    assert len(tuned.tables(tmp_path)["tuned"]) == 3
    cells = tuned.tables(tmp_path)["tuned"][2].strip("| ").split(" | ")
    assert cells == ["constraints: brackets", "**+2**±0 `svdd`", "solved **+2**±0 `svdd`", "-0.5±1.6 `vgb`"]
