// SmolLM2's weights: fetched and checked once, and kept in a cache, from which service.js gives them to the worker.
import { at, dataOfPage } from "../widgets/common.js";
import { SITE, lastLine } from "./python.js";
export const start = dataOfPage(); // {bytes, sha256}, or {missing}
const ADDRESS = `${SITE}models/smollm2.zip`;
const NO_MEMORY = "This tab cannot get the 1 GB of memory that the model needs: close other tabs and reload this page.";
export const sentence = (error) => (/memory|allocat/i.test(lastLine(error)) ? NO_MEMORY : lastLine(error));
export const megabytes = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`;
export const isKept = async () => (await caches.match(ADDRESS))?.headers.get("etag") === start.sha256;

const fail = ({ message }) => { throw Error(`The weights could not be fetched and stored (${message}): try again.`); };
export const fetchWeights = () => fetchUnlessKept().catch(fail);

async function fetchUnlessKept() {
  if (await isKept()) return;
  const progress = Object.assign(at("progress"), { max: start.bytes, value: 0 });
  const count = (part, stream) => {
    progress.value += part.length;
    at("fetched").textContent = `${megabytes(progress.value)} of ${megabytes(start.bytes)}`;
    stream.enqueue(part);
  };
  const { body } = await fetch(ADDRESS, { cache: "no-store" }); // service.js does not keep it: first it is checked
  const blob = await new Response(body.pipeThrough(new TransformStream({ transform: count }))).blob();
  const hash = await crypto.subtle.digest("SHA-256", await blob.arrayBuffer());
  const etag = Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, "0")).join("");
  progress.removeAttribute("value"); // how long the rest takes is not known
  if (etag !== start.sha256) throw new Error("the download is damaged");
  await (await caches.open("my models")).put(ADDRESS, new Response(blob, { headers: { etag } }));
}
