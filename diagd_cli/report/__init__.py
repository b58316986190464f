"""What `diagd compare` makes of several continuations of one clip: videos, a sheet, drawings and a
page.
"""
