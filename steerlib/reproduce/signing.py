"""Signatures of files by SSH keys, which nearly everybody who uses git has: ssh-keygen does all of it.

    ssh-keygen -Y sign -n steerlib -f KEY run.json        writes run.json.sig beside it

The one idea: a signature says who vouches for a file, and that nobody changed it since. It holds the public key, so it can be
checked by itself; the file data/records/signers, in ssh-keygen's format `allowed_signers`, says whose key it is.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from steerlib.errors import SteerlibError

NAMESPACE = "steerlib"  # a signature that was made for something else does not count


@dataclass(frozen=True)
class Signature:
    """A signature that is good: the fingerprint of its key, and whose key it is ("" where the list of signers does not say)."""

    fingerprint: str
    name: str = ""

    def __str__(self) -> str:
        return f"signed by {self.name}" if self.name else f"signed by an unknown key {self.fingerprint}"


def signature_path(path: Path) -> Path:
    """Where the signature of a file is: beside it."""
    return path.with_name(path.name + ".sig")


def sign(path: Path, key: Path) -> Path:
    """Sign a file; ssh-keygen asks for the passphrase, if the key has one.

    Args:
        path: the file.
        key: a private SSH key such as ~/.ssh/id_ed25519, or the public one if an agent holds the private one.

    Returns:
        The path of the signature.

    Raises:
        SteerlibError: there is no such key, or ssh-keygen cannot sign with it.
    """
    key = key.expanduser()
    if not key.is_file():
        raise SteerlibError(f"there is no SSH key {key}: `ssh-keygen -t ed25519` makes one.")
    target = signature_path(path)
    target.unlink(missing_ok=True)  # else ssh-keygen asks whether to overwrite it
    status, out = _keygen("sign", "-f", str(key), str(path.resolve()))
    if status != 0 or not target.is_file():
        raise SteerlibError(f"ssh-keygen could not sign {path} with {key}: {_sentence(out)}.")
    return target


def verify(path: Path, signers: Path) -> Signature | None:
    """Check the signature beside a file.

    Args:
        path: the file.
        signers: the list of known signers; it need not exist.

    Returns:
        The signature; None where there is none.

    Raises:
        SteerlibError: the signature is not of this file as it is now, or not a signature; ssh-keygen is not there.
    """
    mark = signature_path(path)
    if not mark.is_file():
        return None
    content = path.read_bytes()
    status, out = _keygen("check-novalidate", "-s", str(mark), content=content)
    key = re.search(r"\b(?:SHA256|SHA512):\S+", out)
    if status != 0 or key is None:
        raise SteerlibError(
            f"{mark} is not a good signature of {path.name}, which may have been changed: {_sentence(out)}."
        )
    status, names = _keygen("find-principals", "-s", str(mark), "-f", str(signers)) if signers.is_file() else (1, "")
    for name in names.splitlines() if status == 0 else []:
        status, _ = _keygen("verify", "-s", str(mark), "-f", str(signers), "-I", name, content=content)
        if status == 0:
            return Signature(key[0], name)
    return Signature(key[0])


def _keygen(verb: str, *words: str, content: bytes | None = None) -> tuple[int, str]:
    """Run `ssh-keygen -Y VERB`: its exit status, and what it printed."""
    command = ["ssh-keygen", "-Y", verb, *([] if verb == "find-principals" else ["-n", NAMESPACE]), *words]
    try:
        made = subprocess.run(command, input=content, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    except FileNotFoundError:
        raise SteerlibError("signatures need ssh-keygen, which is not installed here: it comes with OpenSSH.") from None
    return made.returncode, made.stdout.decode(errors="replace").replace("\r", "").strip()


def _sentence(out: str) -> str:
    """What ssh-keygen said, to be put into a sentence."""
    lines = [line.strip().rstrip(".") for line in out.splitlines()]
    return "; ".join(line for line in lines if line and line != "Could not verify signature") or "it gave no reason"
