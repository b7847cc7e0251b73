"""Facts: tests whose name is a sentence. Each gets one line, whether it holds or not."""

import unittest


class Facts(unittest.TestLoader):
    """Every public method of a file's own test cases is a fact, in the order of the file."""

    def loadTestsFromModule(self, module):
        own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
        cases = [value for value in own if isinstance(value, type) and issubclass(value, unittest.TestCase)]
        return unittest.TestSuite(self.loadTestsFromTestCase(case) for case in cases)

    def getTestCaseNames(self, case):
        own = [name for name, value in vars(case).items() if callable(value)]
        return [name for name in own if not name.startswith("_") and not hasattr(unittest.TestCase, name)]


class Printer(unittest.TestResult):
    """Prints each fact as it is known, and why one does not hold."""

    def __init__(self):
        super().__init__()
        self.passed = 0
        self.failed = 0

    def fact(self, sentence, holds, why=""):
        if holds:
            self.passed += 1
            print(f"ok    {sentence}", flush=True)
        else:
            self.failed += 1
            indented = "\n".join(f"      {line}" for line in why.rstrip().splitlines())
            print(f"FAIL  {sentence}\n{indented}", flush=True)

    def addSuccess(self, test):
        self.fact(sentence_of(test), True)

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.fact(sentence_of(test), False, self.failures[-1][1])

    def addError(self, test, error):
        super().addError(test, error)
        self.fact(sentence_of(test), False, self.errors[-1][1])


def sentence_of(test):
    """by_python.watch.Watch.a_change_arrives -> "by python, watch: a change arrives"."""
    if not isinstance(test, unittest.TestCase):
        return str(test)  # a class or a module that could not be set up
    file = type(test).__module__.replace(".", ", ")
    return f"{file}: {test._testMethodName}".replace("_", " ")
