// Text in and out of token ids: greedy longest match in a vocabulary, or the bytes of UTF-8 where there is none.

// Ids of a text: marks around it, cut or padded to the length that the model wants.
export function encode(text, how) {
  let ids = how.vocabulary.length ? words(text, how) : Array.from(new TextEncoder().encode(text));
  const marks = [how.first, how.last].filter((id) => id !== null).length;
  if (how.length !== null) ids = ids.slice(0, how.length - marks);
  if (how.first !== null) ids = [how.first, ...ids];
  if (how.last !== null) ids = [...ids, how.last];
  if (!ids.length) ids = [how.pad ?? 0];
  const count = ids.length;
  while (how.length !== null && ids.length < how.length) ids.push(how.pad ?? 0);
  return { ids, count };
}

function words(text, how) {
  how.index ??= new Map(how.vocabulary.map((token, id) => [token, id]));
  how.continues ??= how.vocabulary.some((token) => token.startsWith('##'));
  how.lower ??= !how.vocabulary.some((token) => /^[A-Z][a-z]/.test(token));
  const ids = [];
  for (const word of (how.lower ? text.toLowerCase() : text).match(/[\p{L}\p{N}]+|[^\s\p{L}\p{N}]/gu) ?? []) ids.push(...pieces(word, how));
  return ids;
}

// A word as the longest tokens that it begins with; unknown as a whole where one part has none.
function pieces(word, how) {
  const letters = Array.from(word), ids = [];
  for (let start = 0; start < letters.length;) {
    let end = letters.length, id;
    for (; end > start; end--) {
      const piece = letters.slice(start, end).join('');
      id = how.index.get(start && how.continues ? `##${piece}` : piece);
      if (id !== undefined) break;
    }
    if (id === undefined) return how.unknown === null ? [] : [how.unknown];
    ids.push(id);
    start = end;
  }
  return ids;
}

// Tensors by input name: ids, and what stands beside them.
export function feed(ort, { ids, count }, how) {
  const rows = { ids, mask: ids.map((_, i) => Number(i < count)), types: ids.map(() => 0), positions: ids.map((_, i) => i) };
  return Object.fromEntries(how.inputs.map(([name, role, type]) => [
    name, new ort.Tensor(type, type === 'int64' ? BigInt64Array.from(rows[role], BigInt) : Int32Array.from(rows[role]), [1, ids.length]),
  ]));
}

// What an id looks like on the page.
export function word(id, how) {
  if (how.vocabulary.length) return how.vocabulary[id] ?? `#${id}`;
  return id > 32 && id < 127 ? String.fromCharCode(id) : id === 32 ? '␣' : `x${id.toString(16)}`;
}
