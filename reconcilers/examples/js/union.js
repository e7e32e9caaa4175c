// A reconciler in JavaScript: a JSON array of strings, folded by union.
//
// Lawful because a set union is: order, repeats and grouping do not matter, and
// the result is sorted, so equal sets are equal bytes. Deleted only when every
// sibling is. docs/guests.md says how to build it and what it costs.

// UTF-8 with nothing but the language itself: small engines have no TextDecoder.
const textOf = (bytes) =>
  decodeURIComponent(Array.from(bytes, (byte) => '%' + (byte + 256).toString(16).slice(1)).join(''));
const bytesOf = (text) =>
  Uint8Array.from(encodeURIComponent(text).match(/%..|./g), (piece) =>
    piece[0] === '%' ? parseInt(piece.slice(1), 16) : piece.charCodeAt(0));

// Strings by code units: the same order everywhere, whatever the locale.
const before = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

function read(value) {
  const tags = JSON.parse(textOf(value));
  if (!Array.isArray(tags) || tags.some((tag) => typeof tag !== 'string')) {
    throw 'a value is a JSON array of strings';
  }
  return tags;
}

export const reconcile = {
  describe() {
    return {
      summary: 'A set of tags: the union of all that were written',
      version: '1.0.0',
      eager: false,
    };
  },

  fold(item, siblings) {
    const present = siblings.filter((sibling) => sibling.value !== undefined);
    if (present.length === 0) {
      return { tag: 'deleted' };
    }
    const union = new Set(present.flatMap((sibling) => read(sibling.value)));
    return { tag: 'merged', val: bytesOf(JSON.stringify([...union].sort(before))) };
  },
};
