def require(*args, **kwargs):
    pass
