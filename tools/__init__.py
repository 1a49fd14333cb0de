"""What the Makefile runs: programs around the notebooks. The notebooks import nothing from here."""

from scripts.profiles import Profile, load_profile


def environments_profile() -> Profile:
    """The profile that the environment asks for; a profile or field that does not exist ends the program with that message."""
    try:
        return load_profile()
    except ValueError as error:
        raise SystemExit(str(error)) from None  # printed to standard error, exit status 1
