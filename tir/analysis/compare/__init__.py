"""Two models compared item by item, as one HTML page: `changes`, then `page`. page.js runs in the browser."""
