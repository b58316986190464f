"""A world that is played live: tokens as actions come, pictures as they are made, in a browser."""

LOOPBACK = "127.0.0.1", "localhost", "::1"  # names of this machine
# of the files of what was played, beside each other
ENDINGS = {"mp4": ".mp4", "actions": ".jsonl", "sidecar": ".json"}
