// What is said of the thing under the pointer. Texts become text, never markup.
const tip=document.getElementById('tip');
function say(text,e){if(!text){tip.style.display='none';return}tip.textContent=text;tip.style.display='block';
const w=tip.offsetWidth,h=tip.offsetHeight;tip.style.left=Math.max(4,Math.min(e.clientX+14,innerWidth-w-6))+'px';
tip.style.top=Math.max(4,e.clientY+18+h>innerHeight?e.clientY-h-8:e.clientY+18)+'px'}
const on=(id,f)=>document.getElementById(id).addEventListener('click',f);
