"""What the Makefile runs: programs around the notebooks. The notebooks import nothing from here."""

import os
from pathlib import Path

from scripts.profiles import CHOSEN, Profile, load_profile, shown, why_profile


def environments_profile() -> Profile:
    """The profile that the environment asks for.

    One that was chosen by free memory is printed and set: what this program starts would measure anew, and might choose
    another.
    """
    profile = load_profile()
    if not os.environ.get("COOKBOOK_PROFILE"):
        os.environ[CHOSEN] = why_profile(profile)
        print(f"profile {profile.name} ({os.environ[CHOSEN]})")
        os.environ["COOKBOOK_PROFILE"] = profile.name
    return profile


def merged_model(folder: Path | None, profile: Profile) -> Path:
    """`folder`, or that of notebook 03's merged model. One that holds no model ends the program with a line on it."""
    model = folder or profile.output_dir("03_merge") / "merged"
    if not (model / "config.json").exists():
        hint = "--model takes the folder of one" if folder else "`make run` trains it and merges it there"
        raise SystemExit(f"{shown(model)} holds no model (no config.json); {hint}")
    return model
