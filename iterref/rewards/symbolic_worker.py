"""The process in which math-verify compares formulas: a line of JSON in, [answer, reference], and true or false out.

Run as a script by `iterref.rewards.symbolic`, which ends it where it takes too long; its memory is bounded here.
"""

from __future__ import annotations

import json
import logging
import sys


def main(memory: int) -> None:
    """Answers every line of the input until it ends."""
    import resource

    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    configs = [LatexExtractionConfig(), ExprExtractionConfig()]
    say("ready")
    for line in sys.stdin:
        try:
            # the process is ended from outside: alarms of its own would not reach a loop inside of a C function
            answer, reference = (parse(f"${one}$", configs, parsing_timeout=None) for one in json.loads(line))
            same = bool(verify(reference, answer, timeout_seconds=None))
        except (Exception, MemoryError):
            same = False
        say(json.dumps(same))


def say(line: str) -> None:
    """Writes a line that is read at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
