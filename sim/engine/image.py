"""Machine code as it lies in memory: an object file linked with itself, which ctypes can call.

llvmlite would do the same, but importing it takes as long as a dozen steps.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Callable
from typing import Any

from sim.records import NamedTuple

PAGE = mmap.PAGESIZE
_HEADER = struct.Struct("<4sBBBB8xHHIQQQIHHHHHH")  # ELF64
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_ADDEND = struct.Struct("<QQq")
_X86_64 = 62
_PROGRAM, _SYMBOLS, _RELOCATIONS, _EMPTY = 1, 2, 4, 8  # types of sections
_ALLOCATED, _EXECUTABLE = 2, 4
_ABSOLUTE, _RELATIVE, _CALL = 1, 2, 4  # R_X86_64_64, _PC32, _PLT32


class Image(NamedTuple):
    """Code and what it reads, but for where it will lie.

    Attributes
    ----------
    memory : bytes
        Code, and from a page's beginning on what it reads and writes.
    code : int
        Bytes that are code, whole pages.
    entry : int
        Where the function begins. [B]
    absolute : tuple of int
        Where there are addresses, which count from the image's beginning. [B]
    """

    memory: bytes
    code: int
    entry: int
    absolute: tuple[int, ...]


def linked(elf: bytes, entry: str) -> Image | None:
    """Link an object file with itself.

    Parameters
    ----------
    elf : bytes
        An ELF object.
    entry : str
        Symbol of a function in it.

    Returns
    -------
    Image or None
        None for what is no object of x86-64, needs other code, or has relocations of other kinds
        than LLVM's large code model makes.
    """
    if len(elf) < _HEADER.size:
        return None
    magic, width, order, *_, machine, _, _, _, at, _, _, _, _, size, count, _ = _HEADER.unpack_from(
        elf
    )
    if (magic, width, order, machine) != (b"\x7fELF", 2, 1, _X86_64):
        return None
    sections = [_SECTION.unpack_from(elf, at + i * size) for i in range(count)]
    memory, places, code = _laid_out(elf, sections)
    found, absolute = -1, []
    for _, kind, _, _, offset, length, link, of, _, _ in sections:
        if kind != _RELOCATIONS or of not in places:
            continue
        for where, info, addend in _ADDEND.iter_unpack(elf[offset : offset + length]):
            target = _address(elf, sections[link], info >> 32, places)
            if target is None:
                return None
            kind, place = info & 0xFFFFFFFF, places[of] + where
            if kind == _ABSOLUTE:
                absolute.append(place)
                struct.pack_into("<q", memory, place, target + addend)
            elif kind in (_RELATIVE, _CALL):
                struct.pack_into("<i", memory, place, target + addend - place)
            else:
                return None
    for section in sections:
        if section[1] == _SYMBOLS:
            names = sections[section[6]][4]
            for i in range(section[5] // _SYMBOL.size):
                name = names + _SYMBOL.unpack_from(elf, section[4] + i * _SYMBOL.size)[0]
                if elf[name : elf.index(0, name)].decode() == entry:
                    found = _address(elf, section, i, places) or 0
    return Image(bytes(memory), code, found, tuple(absolute)) if found >= 0 else None


def _laid_out(elf: bytes, sections: list[tuple[Any, ...]]) -> tuple[bytearray, dict[int, int], int]:
    """Sections one after the other, code first; where each begins; bytes of code."""
    memory, places, code = bytearray(), dict[int, int](), 0
    for executable in (True, False):
        for i, (_, kind, flags, _, offset, length, _, _, align, _) in enumerate(sections):
            if kind not in (_PROGRAM, _EMPTY) or not flags & _ALLOCATED:
                continue  # tables for exceptions too, of which there are none
            if bool(flags & _EXECUTABLE) != executable:
                continue
            memory += bytes(-len(memory) % max(align, 1))
            places[i] = len(memory)
            memory += bytes(length) if kind == _EMPTY else elf[offset : offset + length]
        memory += bytes(-len(memory) % PAGE)
        code = code or len(memory)
    return memory, places, code


def _address(
    elf: bytes, symbols: tuple[Any, ...], index: int, places: dict[int, int]
) -> int | None:
    """Where a symbol is; None if it is not of this object."""
    _, _, _, section, value, _ = _SYMBOL.unpack_from(elf, symbols[4] + index * _SYMBOL.size)
    return places[section] + int(value) if section in places else None


class LoadedFunction(NamedTuple):
    """A function in memory, which lives as long as this does."""

    call: Callable[..., None]
    memory: object  # that holds its code


def load(image: Image, arguments: int) -> LoadedFunction | None:
    """Make an image callable, with so many arguments that are integers or addresses.

    Returns
    -------
    LoadedFunction or None
        None where a process may not make code.
    """
    memory = mmap.mmap(-1, len(image.memory), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    memory[:] = image.memory
    for place in image.absolute:
        (target,) = struct.unpack_from("<q", memory, place)
        struct.pack_into("<q", memory, place, base + target)
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if protect(base, image.code, mmap.PROT_READ | mmap.PROT_EXEC):
        return None
    prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * arguments)
    return LoadedFunction(prototype(base + image.entry), memory)
