// Small helpers for the page's elements.

/**
 * The element with this id; its type is looser than the DOM's so that inputs and dialogs need no cast.
 * @param {string} id
 * @returns {any}
 */
export function $(id) {
  return document.getElementById(id);
}

/**
 * A new element with properties and children.
 * @param {string} tag
 * @param {Record<string, any>} [properties]
 * @param {...(Node | string)} children
 * @returns {any}
 */
export function item(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Set an element's text only when it differs, so that screen readers do not repeat it. */
export function setText(id, text) {
  const element = $(id);
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Offer bytes or text to the user as a file.
 * @param {string} name
 * @param {Blob} blob
 */
export function save(name, blob) {
  const link = item("a", { download: name, href: URL.createObjectURL(blob) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A name part that sorts by time: 2026-01-31T12-30-00. */
export function timestamp() {
  return new Date().toISOString().slice(0, 19).replaceAll(":", "-");
}
