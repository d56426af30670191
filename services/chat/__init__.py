"""From a conversation or a plain text to token ids, and to the tokens that the loss covers."""
