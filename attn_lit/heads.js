// CircuitsVis's head patterns: unpack its script once, draw every place of this kind, and let the keyboard reach the
// heads, which CircuitsVis gives to the pointer only.
(() => {
  const lit = window.attnLit;
  if (!lit || lit.heads) return;
  lit.heads = true;
  const reach = tile => {
    tile.tabIndex = 0; tile.setAttribute("role", "button"); tile.setAttribute("aria-label", tile.textContent);
    tile.onkeydown = event => {
      if (event.key != "Enter" && event.key != " ") return;
      event.preventDefault(); event.stopPropagation(); tile.click();
    };
  };
  const draw = (place, props) => {
    place.id = `attn-lit-${lit.drawn++}`; place.textContent = "";
    new MutationObserver(() => {
      for (const name of place.querySelectorAll("h4")) {
        const tile = name.parentElement.parentElement;
        if (tile.tabIndex) reach(tile);
      }
      for (const canvas of place.querySelectorAll("canvas:not([aria-label])"))
        canvas.setAttribute("aria-label", "attention pattern");
    }).observe(place, {childList: true, subtree: true});
    CircuitsVis.render(place.id, CircuitsVis.AttentionHeads, props);
  };
  const unpack = async packed => new Response(new Blob([Uint8Array.from(atob(packed), c => c.charCodeAt(0))]).stream()
    .pipeThrough(new DecompressionStream("gzip"))).text();
  const add = code => document.head.appendChild(Object.assign(document.createElement("script"), {textContent: code}));
  unpack("%PACKED%").then(code => { add(code).remove(); lit.kinds.heads = draw; })
    .catch(error => { lit.kinds.heads = () => { throw error; }; }).then(() => lit.show());
})()
