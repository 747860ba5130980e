"What TRL asks of this module"


class StructuredOutputsParams:
    def __init__(self, **how):
        raise NotImplementedError("the stand-in has no structured outputs")
