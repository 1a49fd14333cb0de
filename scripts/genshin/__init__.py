"""01 to 04: character facts, taught and measured."""
