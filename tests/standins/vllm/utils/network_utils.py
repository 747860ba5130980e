"What TRL asks of this module"


def get_ip():
    return "127.0.0.1"
