"""As axolotl's, as far as a plugin sees it."""


class BasePlugin:
    pass
