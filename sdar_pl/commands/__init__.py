"""The subcommands beside Lightning's own: one file each, with ``main(arguments) -> int``."""
