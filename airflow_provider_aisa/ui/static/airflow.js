// The way back into Airflow's own pages. In a tab of Airflow this page is a frame, which may not move the
// window around it: Airflow's router is told instead, and it follows without loading anything.

const PAGE = /\/aisa\/[a-z]+$/;
const base = location.pathname.replace(PAGE, "");

export const isTab = window.parent !== window;

// Frames of Airflow 3.1 may not download; a window of its own may.
export const mayDownload = !isTab || Boolean(window.frameElement?.sandbox.contains("allow-downloads"));

// As Airflow's router writes them: a tab is highlighted only when its address is the same to the letter.
const segment = (id) => encodeURIComponent(id).replace(/%(3A|2B|40)/g, decodeURIComponent);

export function taskPath(dagId, runId, taskId, mapIndex) {
  const path = `${runPath(dagId, runId)}/tasks/${segment(taskId)}`;
  return mapIndex >= 0 ? `${path}/mapped/${mapIndex}` : path;
}

export function runPath(dagId, runId) {
  return `${dagPath(dagId)}/runs/${segment(runId)}`;
}

export function dagPath(dagId) {
  return `${base}/dags/${segment(dagId)}`;
}

// The tab of a run that shows this gallery.
export function runTabPath(dagId, runId) {
  return `${runPath(dagId, runId)}/plugin/images-dag-run`;
}

// Follow a link that leads into Airflow; for onclick of an <a>.
export function follow(event) {
  if (!isTab) return;
  event.preventDefault();
  const { href } = event.currentTarget;
  if (event.ctrlKey || event.metaKey || event.shiftKey) {
    window.parent.open(href, "_blank");
    return;
  }
  window.parent.history.pushState(null, "", href);
  window.parent.dispatchEvent(new PopStateEvent("popstate", { state: null }));
}

// Open an address in a window of its own; a frame's own links may not.
export function openWindow(href) {
  (isTab ? window.parent : window).open(new URL(href, location.href).href, "_blank");
}
