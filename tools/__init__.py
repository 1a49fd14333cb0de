"""What the Makefile runs: programs around the notebooks. The notebooks import nothing from here."""

import os

from scripts.profiles import CHOSEN, Profile, load_profile, why_profile


def environments_profile() -> Profile:
    """The profile that the environment asks for; a profile or field that does not exist ends the program with that message.

    One that was chosen by free memory is printed and set: what this program starts would measure anew, and might choose another.
    """
    try:
        profile = load_profile()
    except ValueError as error:
        raise SystemExit(str(error)) from None  # printed to standard error, exit status 1
    if not os.environ.get("COOKBOOK_PROFILE"):
        os.environ[CHOSEN] = why_profile(profile)
        print(f"profile {profile.name} ({os.environ[CHOSEN]})")
        os.environ["COOKBOOK_PROFILE"] = profile.name
    return profile
