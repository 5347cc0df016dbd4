"""How byte-level vocabularies spell tokens that are bytes: each byte is one printable character (GPT-2's alphabet)."""

from functools import cache


@cache
def byte_of_character() -> dict[str, int]:
    """Printable bytes stand for themselves, the others for U+0100 and on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def to_bytes(token: str) -> bytes:
    """The bytes that a byte-level token spells. Raises KeyError for a character outside the alphabet."""
    byte_of = byte_of_character()
    return bytes(byte_of[character] for character in token)


def to_characters(token: bytes) -> str:
    """The spelling of a token's bytes."""
    characters = _character_of_byte()
    return "".join(characters[byte] for byte in token)


@cache
def _character_of_byte() -> dict[int, str]:
    return {byte: character for character, byte in byte_of_character().items()}
