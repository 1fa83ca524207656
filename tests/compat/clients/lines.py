"""What the Python client programs share: records and answers as lines of JSON, bytes as hex, null as null.

A program is called as `main.py VERB HOST:PORT WORDS...`. It prints {"not_offered": WHY} where its client cannot do it, and
{"error": {"code": NUMBER or null, "message": TEXT}} where the broker refuses.
"""

import json
import sys
import time
import traceback


class NotOffered(Exception):
    """The client has no way to do this."""


class Refused(Exception):
    """The broker said no, with a code where the client tells it."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Deadline:
    """Fails a program that makes no progress, before it is killed without a word."""

    def __init__(self, seconds=60):
        self.end = time.monotonic() + seconds

    def check(self, said):
        if time.monotonic() > self.end:
            raise TimeoutError(said)


def packed(text):
    return None if text is None else bytes.fromhex(text)


def records():
    """The records to send: (partition, timestamp, key, value, [(name, value), ...])."""
    for line in sys.stdin:
        told = json.loads(line)
        headers = [(name, packed(value)) for name, value in told["headers"]]
        yield told["partition"], told["timestamp"], packed(told["key"]), packed(told["value"]), headers


def shown(value):
    return None if value is None else bytes(value).hex()


def say(**told):
    print(json.dumps(told), flush=True)


def say_record(partition, offset, timestamp, key, value, headers):
    headers = [[name, shown(inner)] for name, inner in headers or []]
    say(partition=partition, offset=offset, timestamp=timestamp, key=shown(key), value=shown(value), headers=headers)


def main(verbs):
    """Does what the command line says; `verbs` are functions of the words."""
    verb = verbs.get(sys.argv[1].replace("-", "_"))
    try:
        if verb is None:
            raise NotOffered("the client has no such request")
        verb(*sys.argv[2:])
    except NotOffered as why:
        say(not_offered=str(why))
    except Refused as refusal:
        say(error={"code": refusal.code, "message": str(refusal)})
    except Exception as error:
        traceback.print_exc()
        # The last line is what is reported.
        sys.exit(f"{type(error).__name__}: {error}")
