"""Which guarantee is shown by which test, and whether it passed: the table of a test run.

Reads tests/guarantees.toml and one or more outputs of a run: libtest's lines (`test a::l5_x ... ok`), nextest's lines
(`PASS [ 0.1s] crate::it a::l5_x`) or a JUnit file. A test shows the rows that its name begins with: `l5_…`, `l1_l9_…`.
Tests print `L5, 36 trials run, 36 trials promised`; those lines are collected where the run kept its output
(`--show-output`, `--success-output final`, or `store-success-output` for JUnit).

Exit 0 when every claimed row has a passing test, no failing one, and no trial missing; 1 when not; 2 when it cannot tell.
"""

import argparse
import json
import platform
import re
import sys
import xml.etree.ElementTree as xml
from dataclasses import dataclass, field
from pathlib import Path

ROWS = Path(__file__).resolve().parent.parent / "tests" / "guarantees.toml"
KEYS = {"sentence": str, "number": str, "where": str, "claimed": bool, "trials": dict}

ANSI = re.compile(r"\x1b\[[0-9;]*m")
LIBTEST = re.compile(r"^test (\S+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)")
NEXTEST = re.compile(r"^\s*(?:TRY \d+ )?(PASS|FAIL|LEAK|LEAK-FAIL|ABORT|TIMEOUT|FLAKY \d+/\d+|SIG[A-Z]+)\s+\[[^\]]*\]\s+(.*)$")
TRIALS = re.compile(r"\b([A-Z]\d+), (\d+) trials run, (\d+) trials promised")
# A test that leaks a handle has still shown what it shows; nextest reports it apart.
PASSED = {"ok", "PASS", "LEAK"}


@dataclass
class Run:
    """What a test run said."""

    results: dict = field(default_factory=dict)  # test name → passed; False once is False for good
    trials: dict = field(default_factory=dict)  # row → [run, promised], summed over the run

    def note(self, name, passed):
        self.results[name] = self.results.get(name, True) and passed

    def count(self, text):
        for row, run, promised in TRIALS.findall(text):
            sums = self.trials.setdefault(row, [0, 0])
            sums[0] += int(run)
            sums[1] += int(promised)


def read_rows(path):
    """The rows, each checked for its keys; exits 2 when the file is not what it should be."""
    try:
        import tomllib
    except ImportError:
        stop(f"wants Python 3.11 or later for tomllib, this is {platform.python_version()}")
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        stop(f"{path}: {error}")
    for row, facts in rows.items():
        for key, kind in KEYS.items():
            if not isinstance(facts.get(key), kind):
                stop(f"{path}: {row}: {key} must be a {kind.__name__}")
        if facts["where"] not in ("L", "M", "L/M"):
            stop(f"{path}: {row}: where must be L, M or L/M")
    return rows


def read_run(paths):
    """Everything that these outputs say, `-` being standard input."""
    run = Run()
    for path in paths:
        try:
            text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            stop(f"{path}: {error.strerror}")
        if text.lstrip().startswith("<"):
            read_junit(path, text, run)
        else:
            read_lines(text, run)
    return run


def read_lines(text, run):
    seen = set()
    for line in ANSI.sub("", text).splitlines():
        if match := LIBTEST.match(line):
            # An ignored test shows nothing and hides nothing: it is as if it were not there.
            if match[2] != "ignored":
                run.note(match[1], match[2] in PASSED)
        elif match := NEXTEST.match(line):
            word = match[1].split()[0]
            # Nextest repeats failures at its end; a flaky test failed first, and a promise is p100.
            run.note(match[2].strip(), word in PASSED)
        elif line not in seen and TRIALS.search(line):
            # The same line twice is the same output shown twice (at once and at the end).
            seen.add(line)
            run.count(line)


def read_junit(path, text, run):
    try:
        root = xml.fromstring(text)
    except xml.ParseError as error:
        stop(f"{path}: {error}")
    for case in root.iter("testcase"):
        if case.find("skipped") is not None:
            continue
        bad = any(child.tag in ("failure", "error", "flakyFailure", "flakyError", "rerunFailure") for child in case)
        run.note(f"{case.get('classname', '')} {case.get('name', '')}".strip(), not bad)
        run.count("\n".join(output.text or "" for output in case.iter("system-out")))


def rows_of(name, rows):
    """The rows that a test's name begins with."""
    last = name.split()[-1].split("::")[-1]
    found = []
    for word in last.split("_"):
        if word.upper() not in rows:
            break
        found.append(word.upper())
    return found


@dataclass
class Verdict:
    """One row, judged."""

    row: str
    word: str  # passed, FAILED, MISSING, SHORT, needs a Mac, not claimed
    tests: list
    trials: str
    bad: bool


def judge(rows, run, mac):
    """A verdict for each row, in the order of the file."""
    shown = {row: [] for row in rows}
    for name, passed in sorted(run.results.items()):
        for row in rows_of(name, rows):
            shown[row].append((name, passed))
    return [judge_row(row, facts, shown[row], run.trials.get(row), mac) for row, facts in rows.items()]


def judge_row(row, facts, tests, trials, mac):
    claimed = facts["claimed"]
    counted = "-" if trials is None else f"{trials[0]}/{trials[1]}"
    if any(not passed for _, passed in tests):
        word, bad = "FAILED", True
    elif facts["where"] == "M" and not mac and not tests:
        word, bad = "needs a Mac", False
    elif trials is not None and trials[0] < trials[1]:
        word, bad = "SHORT", claimed
    elif tests:
        word, bad = "passed", False
    else:
        word, bad = ("MISSING", True) if claimed else ("not claimed", False)
    return Verdict(row, word, [name for name, _ in tests], counted, bad)


def table(verdicts, rows):
    """The table for people: rows with a claim or a test, then the rest in one line each kind."""
    lines = [f"{'row':4} {'claimed':7} {'result':11} {'trials':>13}  tests"]
    for verdict in verdicts:
        claimed = rows[verdict.row]["claimed"]
        if not claimed and not verdict.tests:
            continue
        tests = [name.split()[-1] for name in verdict.tests] or ["-"]
        head = f"{verdict.row:4} {'yes' if claimed else 'no':7} {verdict.word:11} {verdict.trials:>13}  "
        lines.append(head + tests[0])
        lines += [" " * len(head) + test for test in tests[1:]]
    for word, text in (("needs a Mac", "needs a Mac"), ("not claimed", "not claimed and without a test")):
        rest = [verdict.row for verdict in verdicts if verdict.word == word]
        if rest:
            lines.append(f"{text}: {' '.join(rest)}")
    partly = [row for row, facts in rows.items() if facts["where"] == "L/M" and facts["claimed"]]
    if partly:
        lines.append(f"shown here in part, the rest needs a Mac: {' '.join(partly)}")
    claimed = [verdict for verdict in verdicts if rows[verdict.row]["claimed"]]
    held = sum(verdict.word == "passed" for verdict in claimed)
    lines.append(f"{held} of {len(claimed)} claimed rows shown by a passing test")
    return "\n".join(lines)


def stop(message):
    print(f"guarantees: {message}", file=sys.stderr)
    sys.exit(2)


def main():
    parser = argparse.ArgumentParser(prog="scripts/guarantees", description=__doc__.splitlines()[0])
    parser.add_argument("output", nargs="+", help="outputs of a test run; - is standard input")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the rows [default: tests/guarantees.toml]")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rows = read_rows(options.rows)
    run = read_run(options.output)
    if not run.results:
        stop("no test result was found in the output")
    verdicts = judge(rows, run, mac=sys.platform == "darwin")
    print(json.dumps([vars(verdict) for verdict in verdicts], indent=2) if options.json else table(verdicts, rows))
    bad = [f"{verdict.row} {verdict.word}" for verdict in verdicts if verdict.bad]
    if bad:
        print(f"guarantees: {len(bad)} rows do not hold: {', '.join(bad)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
