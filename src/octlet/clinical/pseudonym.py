"""The salt behind pseudonyms. Whoever holds it can tell whose a known ID is; without it nobody can."""

from pathlib import Path

from octlet.core.errors import UsageError

SHORTEST = 16  # bytes
LONGEST = 4096


def read_salt(file: Path) -> bytes:
    """Read the salt, the whole content of a file.

    Raises UsageError: missing, unreadable, or not of 16 to 4096 bytes. None is ever made here: a salt that
    comes into being unnoticed is not kept, and the same patient has another pseudonym the next time.
    """
    remedy = f"make one, and keep it: head -c 32 /dev/urandom > {file} && chmod 600 {file}"
    try:
        with file.open("rb") as opened:
            salt = opened.read(LONGEST + 1)
    except OSError as error:
        raise UsageError(f"the salt cannot be read: {error.strerror}", path=file, remedy=remedy) from error
    if not SHORTEST <= len(salt) <= LONGEST or len(set(salt)) < SHORTEST // 2:
        rule = f"a salt has {SHORTEST} to {LONGEST} random bytes"
        raise UsageError(rule, path=file, remedy=remedy)
    return salt
