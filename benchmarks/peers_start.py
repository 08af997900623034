"""Start commands in turn; tell how soon each answers, and how much memory it took at most.

    echo '{"rounds": 7, "commands": [["python", "-c", "print(1)"]]}' | python benchmarks/peers_start.py

prints, for each command, its rounds' {"seconds": from the start to the first line, "peak_mb": of 10^6 bytes}.
A program of its own because Linux counts the memory of whoever starts a process as that process's: this one
imports nothing.
"""

import json
import os
import subprocess
import sys
import time

Round = dict[str, float]


def start(command: list[str]) -> Round:
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None  # noqa: S101
    line = process.stdout.readline()
    seconds = time.perf_counter() - begin
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not line:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {"seconds": seconds, "peak_mb": usage.ru_maxrss * 1024 / 1e6}


def main() -> None:
    asked = json.load(sys.stdin)
    commands = asked["commands"]
    for command in commands:  # its files are in the page cache then, its bytecode is compiled
        start(command)
    turns: list[list[Round]] = [[] for _ in commands]
    for number in range(asked["rounds"]):
        for command, own in zip(commands, turns, strict=True):
            own.append(start(command))
        print(f"cold start, round {number + 1} of {asked['rounds']}", file=sys.stderr)
    json.dump(turns, sys.stdout)


if __name__ == "__main__":
    main()
