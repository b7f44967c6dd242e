// The service worker of the site: keeps every file after its first use, and knows what is to be stopped.
// A page says {claim: true} to be served by it at once, and {stop: number}. Python, which cannot listen while it computes, asks for the address stop/NUMBER.
const CACHE = "minigrad VERSION"; // for VERSION, site.py writes a hash of all files, and "unfinished" until then
const stopped = new Set();

addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => {
  const old = async () => {
    for (const name of await caches.keys()) if (name.startsWith("minigrad ") && name !== CACHE) await caches.delete(name);
    await clients.claim();
  };
  event.waitUntil(old());
});
addEventListener("message", ({ data }) => (data.claim ? clients.claim() : stopped.add(String(data.stop))));
addEventListener("fetch", (event) => {
  const [, number] = event.request.url.match(/\/stop\/(\d+)$/) ?? [];
  if (number) event.respondWith(new Response(stopped.delete(number) ? "yes" : "no"));
  else if (event.request.method === "GET") event.respondWith(kept(event.request));
});

async function kept(request) {
  const found = await caches.match(request); // also in "my models", which train.js and chat.js fill
  if (found) return found;
  const response = await fetch(request);
  const isKept = response.ok && request.cache !== "no-store" && !CACHE.endsWith("unfinished");
  if (isKept) (await caches.open(CACHE)).put(request, response.clone());
  return response;
}
