import os
import uuid
from concurrent.futures import ThreadPoolExecutor

from llmobs.ids import new_request_id


def test_an_id_is_a_version_7_uuid() -> None:
    made = uuid.UUID(new_request_id())
    assert (made.version, made.variant) == (7, uuid.RFC_4122)


def test_threads_never_get_the_same_id() -> None:
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda _: new_request_id(), range(5000)))
    assert len({one[14:] for one in ids}) == 5000  # the random part alone


def test_a_forked_process_gives_other_ids() -> None:
    new_request_id()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, " ".join(new_request_id()[14:] for _ in range(50)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = set(os.read(reading, 65536).decode().split())
    assert len(theirs) == 50
    assert theirs.isdisjoint(new_request_id()[14:] for _ in range(450))
