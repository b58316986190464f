"""A world that is played live: tokens as actions come, pictures as they are made, in a browser."""
