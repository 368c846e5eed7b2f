// Elements are made here and nowhere else: text becomes text nodes, so nothing that came from
// outside can become markup.
const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "rect", "path", "line", "g", "title"]);

export function h(tag, attributes = {}, ...children) {
  const element = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function table(caption, head, rows, attributes = {}) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", attributes,
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, rows)));
}

export function field(name, control, hint = null) {
  const id = `f-${Math.random().toString(36).slice(2, 9)}`;
  control.id = id;
  return h("div", { class: "field" }, h("label", { for: id }, name), control, hint && h("p", { class: "hint" }, hint));
}

export function select(options, chosen) {
  return h("select", {}, options.map(([value, name]) => h("option", { value, selected: value === chosen }, name)));
}

export function copyButton(S, text) {
  const button = h("button", { type: "button", class: "quiet", click: async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {  // no permission, or no secure context: select it for the keyboard
      const range = document.createRange();
      range.selectNodeContents(button.nextElementSibling);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
    }
    button.textContent = S.copied;
    setTimeout(() => { button.textContent = S.copy; }, 1500);
  } }, S.copy);
  return button;
}
