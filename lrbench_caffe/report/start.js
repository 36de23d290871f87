"use strict";
// Unpacks plotly.js, which the page holds as gzip in base 85, and then starts the page's own
// scripts. The page's Content-Security-Policy has the digests of all of them.
(() => {
  const ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    + "!#$%&()*+-;,=>?@^_`{|}~";  // that of Python's base64.b85encode, with "," for "<"

  function decoded(text) {
    const values = new Uint8Array(128);
    [...ALPHABET].forEach((character, n) => { values[character.charCodeAt(0)] = n; });
    const bytes = new DataView(new ArrayBuffer(text.length / 5 * 4));
    for (let start = 0; start < text.length; start += 5) {
      let word = 0;
      for (let n = start; n < start + 5; n++) word = 85 * word + values[text.charCodeAt(n)];
      bytes.setUint32(start / 5 * 4, word);
    }
    return bytes.buffer;
  }

  async function unpacked(element) {
    const bytes = decoded(element.textContent).slice(0, Number(element.dataset.length));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  function run(text) {
    const script = document.createElement("script");
    script.textContent = text;
    document.head.append(script);
  }

  async function start() {
    try {
      run(await unpacked(document.getElementById("plotly")));
    } catch (error) {
      document.getElementById("status").textContent =
        "This browser cannot unpack the page's charts (" + error.message + "): use a browser of "
        + "2023 or later.";
      return;
    }
    for (const element of document.querySelectorAll("script[data-part]")) run(element.textContent);
    document.documentElement.dataset.started = "";
  }

  start();
})();
