# SPDX-License-Identifier: BSD-2-Clause
#
# A client of the control socket for tests: what it says is what QMP clients say. Steps of a test are
# little programs after `from qmp import *`, where m is the machine whose socket is $QMP.

import json
import os
import socket
import time


class Refused(Exception):
    def __init__(self, error):
        super().__init__(error["desc"])
        self.kind = error["class"]


class Machine:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(200)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r")
        self.events = []
        self.ids = 0
        greeting = self.read()
        assert "QMP" in greeting, greeting
        self.do("qmp_capabilities")

    def read(self):
        line = self.lines.readline()
        if not line:
            raise EOFError("the machine has ended")
        return json.loads(line)

    # Events that come meanwhile are kept.
    def do(self, command, arguments=None):
        self.ids += 1
        what = {"execute": command, "id": self.ids}
        if arguments is not None:
            what["arguments"] = arguments
        self.socket.sendall(json.dumps(what).encode())
        while True:
            answer = self.read()
            if "event" in answer:
                self.events.append(answer)
                continue
            assert answer["id"] == self.ids, answer
            if "error" in answer:
                raise Refused(answer["error"])
            return answer["return"]

    # The data of the next event of this name; those before it are dropped.
    def event(self, name, **want):
        while True:
            e = self.events.pop(0) if self.events else self.read()
            data = e.get("data", {})
            if e.get("event") == name and all(data.get(k) == v for k, v in want.items()):
                assert abs(e["timestamp"]["seconds"] - time.time()) < 3600, e
                return data

    def job(self, command, arguments):
        self.do(command, {"job-id": "job0", **arguments})
        self.event("JOB_STATUS_CHANGE", id="job0", status="concluded")
        job = [j for j in self.do("query-jobs") if j["id"] == "job0"][0]
        self.do("job-dismiss", {"id": "job0"})
        if "error" in job:
            raise Refused({"desc": job["error"], "class": "GenericError"})

    def disk(self, name):
        return [d for d in self.do("query-block") if d["device"] == name][0]

    def stats(self, name):
        return [d for d in self.do("query-blockstats") if d["device"] == name][0]["stats"]


def refused(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except Refused as e:
        return e
    raise AssertionError("it was not refused")


m = Machine(os.environ["QMP"])
