"""From a conversation to token ids, and to the tokens that the loss covers."""
