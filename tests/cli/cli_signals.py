# SPDX-License-Identifier: MIT
"""The command gqmm under signals and on a terminal, for which a shell script has no means."""

import array
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
gqmm = os.path.abspath(os.path.join(os.environ.get("GQMM_BUILD", "build"), "gqmm"))
tiny = os.path.abspath("tests/data/tiny-qwen3moe-f32.gguf")
tmp = tempfile.mkdtemp()
results = []


def verdict(name, good, why=""):
    results.append(bool(good))
    print(f"ok {name}" if good else f"FAIL {name}: {why}", flush=True)


def big_model(path):
    """One matrix that takes seconds to quantise: no model, but a GGUF file."""
    n = 4096
    row = array.array("f", [((i * 7919) % 1000 - 500) / 500 for i in range(n)]).tobytes()
    name = b"blk.0.big.weight"
    head = struct.pack("<IIqq", 0x46554747, 3, 1, 0) + struct.pack("<Q", len(name)) + name
    head += struct.pack("<IqqIQ", 2, n, n, 0, 0)
    with open(path, "wb") as f:
        f.write(head + bytes(-len(head) % 32))
        for _ in range(n):
            f.write(row)


def ended(kind, number):
    out = os.path.join(tmp, "killed", "out.gguf")
    os.makedirs(os.path.dirname(out), exist_ok=True)
    p = subprocess.Popen([gqmm, "quantize", os.path.join(tmp, "big.gguf"), out, "--type", kind,
                          "--threads", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not os.listdir(os.path.dirname(out)) and p.poll() is None:
        time.sleep(0.002)
    early = p.poll()
    p.send_signal(number)
    _, err = p.communicate()
    left = os.listdir(os.path.dirname(out))
    for name in left:
        os.unlink(os.path.join(os.path.dirname(out), name))
    return early, p.returncode, err.decode(), left


def on_terminal(args, env, typed=b""):
    """What a command writes to a terminal, and its exit code."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(env)
        os.execv(args[0], args)
    seen = b""
    if typed:
        time.sleep(0.3)
        os.write(fd, typed)
    while True:
        try:
            part = os.read(fd, 65536)
        except OSError:
            break
        if not part:
            break
        seen += part
    return seen, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def check_quantize():
    big_model(os.path.join(tmp, "big.gguf"))
    for number in (signal.SIGINT, signal.SIGTERM):
        early, code, err, left = ended("q4_k", number)
        verdict(f"quantize: {number.name} leaves nothing",
                early is None and code == 130 and "interrupted" in err and not left,
                f"exit {code}, early {early}, {err!r}, left {left}")
    early, code, err, left = ended("q4_k", signal.SIGKILL)
    verdict("quantize: SIGKILL leaves no output", code == -9 and "out.gguf" not in left,
            f"exit {code}, left {left}")
    os.unlink(os.path.join(tmp, "big.gguf"))


def check_run():
    # Ctrl-C in run: the text so far, statistics, 130. The tiny model is fast, so there are tries.
    for _ in range(20):
        p = subprocess.Popen([gqmm, "run", tiny, "-p", "One", "-n", "-1", "--threads", "1"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        first = p.stdout.read(1)
        p.send_signal(signal.SIGINT)
        out, err = p.communicate()
        if p.returncode != 0:
            break
    verdict("run: Ctrl-C keeps text and statistics",
            p.returncode == 130 and first and b"(interrupted)" in err and b"kernels" in err,
            f"exit {p.returncode}, {err!r}")


def check_terminal():
    seen, code = on_terminal([gqmm, "help", "run"], {"TERM": "xterm", "NO_COLOR": ""})
    verdict("a terminal gets bold headings", code == 0 and b"\x1b[1musage:" in seen, repr(seen[:80]))
    for env in ({"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "dumb"}):
        seen, code = on_terminal([gqmm, "help", "run"], env)
        verdict(f"none with {env}", code == 0 and b"usage:" in seen and b"\x1b" not in seen,
                repr(seen[:80]))
    seen, code = on_terminal([gqmm, "chat", tiny, "-n", "5"], {"TERM": "xterm", "NO_COLOR": "1"},
                             b"hello\n\x04")
    verdict("chat on a terminal, Ctrl-D ends it",
            code == 0 and b"Ctrl-D ends" in seen and b"answers" in seen, f"{code} {seen!r}")
    seen, code = on_terminal([gqmm, "run", tiny], {"TERM": "xterm"})
    verdict("run on a terminal asks for a prompt", code == 2 and b"needs a prompt" in seen, repr(seen))
    seen, code = on_terminal([gqmm, "run", tiny, "-p", "One", "-n", "200", "--temp", "3", "--top-p", "1",
                              "--top-k", "0", "--seed", "1"], {"TERM": "xterm", "NO_COLOR": "1"})
    text = seen.split(b"prompt  ")[0].replace(b"\x1b[K", b"")
    bad = [c for c in text if c < 32 and c not in b"\r\n\t"]
    verdict("control characters of a model do not reach a terminal", code == 0 and not bad, repr(bad))


def has_terminals():
    """A chroot or container may have no pseudo terminals."""
    try:
        for fd in os.openpty():
            os.close(fd)
        return True
    except OSError:
        return False


def main():
    skipped = 0
    os.environ.pop("NO_COLOR", None)
    # A job in the background of a script inherits an ignored SIGINT, and would pass it on.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        check_quantize()
        check_run()
        if has_terminals():
            check_terminal()
        else:
            skipped = 1
            print("skip terminals: there are no pseudo terminals here", flush=True)
    finally:
        shutil.rmtree(tmp)
    print(f"cli_signals: {results.count(True)} passed, {results.count(False)} failed, "
          f"{skipped} skipped")
    sys.exit(not all(results))


main()
