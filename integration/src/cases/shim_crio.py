"""Starts windlass-shim under the name conmon as CRI-O 1.37 starts conmon 2.2, and reads its answers as CRI-O does.

usage: shim_crio.py SHIM RUNTIME ROOT BUNDLE DIRECTORY

The process of the bundle counts up, a number a line, and ends with 7 on SIGTERM. DIRECTORY is empty. Ends with 0 if all
is as it must be.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time

SHIM, RUNTIME, ROOT, BUNDLE, DIRECTORY = sys.argv[1:]
ID = "0123456789abcdef" * 4


def check(holds, what):
    if not holds:
        sys.exit(f"wrong: {what}")


def eventually(what, holds):
    end = time.monotonic() + 20
    while not holds():
        check(time.monotonic() < end, what)
        time.sleep(0.01)


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def conmon(words, pipe):
    """Starts it and lets it go on; its answer on a pipe of this kind, and its own code."""
    ours, theirs = pipe()
    start_ours, start_theirs = socket.socketpair()
    # CRI-O gives its extra files the numbers from 3 on, and nothing of its environment but PATH.
    shell = 'exec 3<&"$1" 4<&"$2"; shift 2; exec "$@"'
    numbers = [str(one if isinstance(one, int) else one.fileno()) for one in (theirs, start_theirs)]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "_OCI_SYNCPIPE": "3", "_OCI_STARTPIPE": "4"}
    # dash takes one digit for a descriptor.
    child = subprocess.Popen(["/bin/bash", "-c", shell, "sh", *numbers, DIRECTORY + "/conmon", *words], cwd=BUNDLE,
                             env=environment, pass_fds=[int(one) for one in numbers], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    os.close(theirs) if isinstance(theirs, int) else theirs.close()
    start_theirs.close()
    time.sleep(0.1)
    check(child.poll() is None, "it waits until it may start")
    start_ours.send(b"\0")
    code = child.wait(timeout=30)
    # CRI-O decodes one JSON value, whatever follows.
    data = b""
    while True:
        more = os.read(ours, 4096) if isinstance(ours, int) else ours.recv(4096)
        data += more
        try:
            return json.JSONDecoder().raw_decode(data.decode())[0], code
        except ValueError:
            check(more, f"no answer, code {code}: {data} {child.stdout.read()}")


def exec_sync(process, *more):
    spec, log = DIRECTORY + "/process.json", DIRECTORY + "/exec.log"
    for path in (log, DIRECTORY + "/exec.pid"):
        with open(path, "w", encoding="utf-8"):
            pass
    with open(spec, "w", encoding="utf-8") as file:
        json.dump({"cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}, "args": ["/bin/sh", "-c", process]}, file)
    answer, _ = conmon(["-c", ID, "-n", "k8s_main_web_default", "-r", RUNTIME, "-p", DIRECTORY + "/exec.pid", "-e", "-l", log,
                        "--socket-dir-path", DIRECTORY + "/sockets", "--log-level", "info", "--sync",
                        "--log-global-size-max", "16777216", *more, "--exec-process-spec", spec,
                        "--runtime-arg", "--root=" + ROOT], os.pipe)
    streams = {"stdout": "", "stderr": ""}
    for line in read(log).splitlines(keepends=True):
        _, stream, tag, content = line.split(" ", 3)
        streams[stream] += content.removesuffix("\n") if tag == "P" else content
    return answer, streams


def runtime(*words):
    return subprocess.run([RUNTIME, "--root=" + ROOT, *words], check=True, stdout=subprocess.PIPE).stdout


def numbers(path):
    return [int(number) for number in re.findall(r" stdout F (\d+)\n", read(path))]


def main():
    os.symlink(SHIM, DIRECTORY + "/conmon")
    for name in ("exits", "persist", "sockets"):
        os.mkdir(DIRECTORY + "/" + name)
    version = subprocess.run([DIRECTORY + "/conmon", "--version"], check=True, stdout=subprocess.PIPE).stdout
    check(re.match(rb"conmon version \d+\.\d+\.\d+", version), f"CRI-O reads the version: {version}")
    log = DIRECTORY + "/main.log"
    create = ["-b", BUNDLE, "-c", ID, "--exit-dir", DIRECTORY + "/exits", "-l", log, "--log-level", "info",
              "-n", "k8s_main_web_default", "-P", BUNDLE + "/conmon-pidfile", "-p", BUNDLE + "/pidfile",
              "--persist-dir", DIRECTORY + "/persist", "-r", RUNTIME, "--runtime-arg", "--root=" + ROOT,
              "--socket-dir-path", DIRECTORY + "/sockets", "--syslog", "-u", ID, "--log-size-max", "1048576", "--no-sync-log",
              "--leave-stdin-open", "-i"]
    answer, code = conmon(create, socket.socketpair)
    check(code == 0 and answer["pid"] > 0, f"create: {code} {answer}")
    check(read(BUNDLE + "/pidfile") == str(answer["pid"]), "the file with the pid")
    check(os.path.isdir(f"/proc/{read(BUNDLE + '/conmon-pidfile').strip()}"), "the file with conmon's pid")
    check(json.loads(runtime("state", ID))["status"] == "created", "the state before start")
    runtime("start", ID)
    eventually("lines in the log", lambda: len(numbers(log)) > 5)

    # The kubelet moves a log away, and CRI-O asks for another; then it asks for one that was not moved.
    os.rename(log, log + ".1")
    for _ in range(2):
        seen = len(numbers(log))
        with open(BUNDLE + "/ctl", "w", encoding="ascii") as control:
            control.write("2 0 0\n")
        eventually("lines in the new log", lambda: len(numbers(log)) > seen + 5)
    both = numbers(log + ".1") + numbers(log)
    check(both == list(range(1, len(both) + 1)), f"a line is lost or doubled: {both}")

    # Attach, by the link below the directory of sockets.
    attached = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # The path is longer than an address may be.
    os.chdir(f"{DIRECTORY}/sockets/{ID}")
    attached.connect("attach")
    attached.settimeout(20)
    packet = attached.recv(8192)
    check(packet[0] == 2 and re.match(rb"\d+\n", packet[1:]), f"a packet of standard output: {packet}")
    attached.close()

    answer, streams = exec_sync("echo out; echo err >&2; printf part; exit 5")
    check(answer["exit_code"] == 5 and streams == {"stdout": "out\npart", "stderr": "err\n"}, f"exec: {answer} {streams}")
    answer, _ = exec_sync("exec sleep 1000", "-T", "1")
    check((answer["exit_code"], answer["message"]) == (-1, "command timed out"), f"an exec that lasts too long: {answer}")
    answer, streams = exec_sync("head -c 100000 /dev/zero | tr '\\0' x")
    check(answer["exit_code"] == 0 and streams["stdout"] == "x" * 100000, f"much output: {answer}")

    runtime("kill", ID, "TERM")
    eventually("the file with the code", lambda: read(f"{DIRECTORY}/exits/{ID}") == "7")
    check(json.loads(runtime("state", ID))["status"] == "stopped", "the state at the end")
    runtime("delete", "--force", ID)

    # What cannot be made is said in the answer.
    os.rename(BUNDLE + "/config.json", BUNDLE + "/config.away")
    answer, _ = conmon(create, socket.socketpair)
    os.rename(BUNDLE + "/config.away", BUNDLE + "/config.json")
    check(answer["pid"] < 0 and "config.json" in answer["message"], f"a create that fails: {answer}")


main()
