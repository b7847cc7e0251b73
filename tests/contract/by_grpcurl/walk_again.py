"""The printed lines once more, after a restart: `keyholder dev` keeps everything for the next time."""

import unittest

from by_grpcurl.walk import run_in_order
from support import world


class WalkAgain(unittest.TestCase):
    def every_line_that_a_second_start_prints_works_too(self):
        folder = world.current.folder.parent / "again"
        with world.running(folder) as first:
            run_in_order(first.printed())
        with world.running(folder) as second:
            run_in_order(second.printed())
