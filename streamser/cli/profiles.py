"""`streamser profiles`: list the profiles on this machine, or delete one."""

from __future__ import annotations

import argparse
import glob
import re

from streamser.errors import ConfigError
from streamser.profile import find_profiles, load_profile, profile_folder, profile_path

_EPILOG = """examples:
  streamser profiles                  # the profiles, and where they are
  streamser profiles --delete anna    # delete all data of that voice

A profile describes a voice. It is personal data, and only you can read its file.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--delete",
        action="append",
        default=[],
        metavar="NAME",
        help="delete a profile by name or path; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    """Exit code 0; errors are raised."""
    if not args.delete:
        return _list()
    for name in args.delete:
        delete(name)
        print(f"profile '{name}' deleted")
    return 0


def delete(name: str) -> None:
    """Delete one profile and the remains of an interrupted write; ConfigError if the file is not a profile."""
    place = profile_path(name)
    if not place.is_file():
        known = ", ".join(find_profiles()) or "none"
        raise ConfigError(f"{place}: no such profile; known: {known}")
    if not _is_profile(place.read_bytes()):  # a truncated, too old or too new profile may be deleted too
        raise ConfigError(f"{place}: not a streamser profile, so it is not deleted; delete it yourself")
    try:
        place.unlink()
        for part in place.parent.glob(f"{glob.escape(place.name)}*.part"):
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{place}: cannot be deleted ({error.strerror}); check the folder's permissions") from error


def _is_profile(content: bytes) -> bool:
    return re.match(rb'\{\s*"streamser_profile"', content) is not None


def _list() -> int:
    names = find_profiles()
    for name in names:
        try:
            profile = load_profile(name)
            print(f"{name}  for {profile.model}, {profile.speech_s:.0f} s of speech")
        except ConfigError as error:  # noqa: PERF203  # an old profile must not hide the others
            print(f"{name}  cannot be used: {error}")
    print(f"{len(names)} in {profile_folder()}")
    return 0
